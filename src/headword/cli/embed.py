"""`headword embed`: images of any source → a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output
from headword.files import expand

if TYPE_CHECKING:
    from headword.extract import Shared
    from headword.model import DualEncoder

_METRICS = ("images_per_second", "seconds", "rows", "ok", "unreadable", "resumed")


@command(
    "embed model holiday/ --out features", "embed resnet50.a1_in1k photos.csv --out features --batch-size 8"
)
def embed(
    output: Output,
    model: Annotated[str, Argument(help="A saved model's folder, or a classifier as for recycle --vision.")],
    source: Annotated[
        str,
        Argument(
            help="A folder, glob, .csv/.jsonl/.parquet/.txt of paths, WebDataset .tar (x-{000..009}.tar), "
            "hf:FOLDER or hf:NAME:SPLIT, or a URL."
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="The store's folder; an unfinished one goes on.")],
    space: Annotated[
        Literal["features", "shared"],
        Option(help="The classifier's features, or unit vectors in the space shared with words."),
    ] = "features",
    engine: Annotated[
        Literal["auto", "torch", "openvino", "ray"], Option(help="What runs the model.")
    ] = "auto",
    batch_size: options.BatchSize = 32,
    workers: Annotated[
        int | None, Option(min=1, help="How many decode at once; with ray, how many actors.")
    ] = None,
    draft: Annotated[
        bool, Option(help="Decode JPEG photos above 1,000 pixels at a fraction of their size.")
    ] = True,
    store_dtype: Annotated[
        Literal["float32", "float16"], Option(help="Precision of what is stored.")
    ] = "float32",
    class_names: options.ClassNames = None,
    head: options.Head = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Embed images of any source into a store of vectors.

    A run that was interrupted goes on where it stopped.
    """
    from functools import partial

    from headword.encoders import load_vision
    from headword.encoders.own_module import resolve_vision
    from headword.errors import HeadwordError
    from headword.extract import extract_features
    from headword.model import load
    from headword.saved import CONFIG

    shared, provenance = None, None
    folder = expand(model)
    if (folder / CONFIG).is_file():
        saved = load(folder, vision=vision, device=device)
        encoder, provenance = saved.vision, saved.provenance()
        shared = shared_space(saved) if space == "shared" else None
        loader: Any = partial(load_encoder, str(folder.resolve()), vision)
    elif vision is not None:
        raise HeadwordError(
            f"{model} is no saved model, which --vision goes with; give {vision} in its place"
        )
    elif space == "shared":
        raise HeadwordError(
            f"{model} is no saved model, which --space shared needs; make one with headword recycle"
        )
    else:
        encoder = load_vision(resolve_vision(model), names=class_names, head=head, device=device)
        loader = None
    with output.progress("images") as progress:
        done = extract_features(
            encoder, source, out, shared=shared, engine=engine, dtype=dtype, store_dtype=store_dtype,
            batch_size=batch_size, workers=workers, draft=draft, progress=progress, loader=loader,
        )  # fmt: skip
    facts = [
        ("images", f"{done.rows:,}, of which {done.ok:,} embedded and {done.unreadable:,} unreadable"),
        ("of an earlier run", f"{done.resumed:,}"),
        ("engine", f"{done.engine} in {done.precision}"),
    ]
    if done.rows > done.resumed:
        facts.append(("speed", f"{done.images_per_second:,.0f} images/s, {done.seconds:,.1f} s"))
    output.facts(f"Embedded into {out}", facts)
    for note in filter(None, (done.note, *done.notes)):
        output.say(f"Note: {note}")
    if done.unreadable:
        output.say("Why images are unreadable is in the column status of the store.")
    output.next_step("in Python: from headword.extract.vectors import read_vectors")
    output.result(
        model=provenance or {"vision": encoder.provenance()},
        protocol={"source": source, "space": space, "draft": draft, "batch_size": batch_size},
        metrics={name: getattr(done, name) for name in _METRICS},
        engine=done.engine,
        precision=done.precision,
        note=done.note,
        notes=list(done.notes),
        out=str(out),
    )


def shared_space(model: DualEncoder) -> Shared:
    """How a model's features become embeddings, and a hash of all that depends on."""
    from headword.extract import Shared
    from headword.files.tensors import sha256_of

    identity = sha256_of(model.provenance()["aligner"], model.aligner.tensors)
    return Shared(project=model.encode_image, dim=model.dim, identity=identity)


def load_encoder(folder: str, vision: str | None = None) -> Any:
    """A saved model's vision encoder, on a Ray worker."""
    from headword.model import load

    return load(folder, vision=vision).vision
