"""`headword recycle`: a classifier's head and its class names → a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted


@command("recycle --out model", "recycle --vision resnet50.a1_in1k --centre-on holiday/ --out model")
def recycle(
    output: Output,
    out: Annotated[Path, Option("--out", "-o", help="A new folder for the model.")],
    vision: Annotated[
        list[str] | None,
        Option(
            help="The classifier: embedded[:lite1|:lite2] (the default), a timm id, torchvision:NAME, "
            "transformers:ID, a folder, or your own module:FILE.py:FACTORY; several are joined."
        ),
    ] = None,
    text: Annotated[
        str,
        Option(
            help="The text encoder: embedded, a sentence-transformers id or folder, open_clip:ARCH/TAG, "
            "transformers:ID."
        ),
    ] = "embedded",
    class_names: Annotated[
        Path | None,
        Option(help="Class names, one a line in the order of the head's rows; else the model's own."),
    ] = None,
    captions: Annotated[
        Path | None, Option(help="Image-caption pairs (JSONL, CSV or Karpathy JSON) that augment the rows.")
    ] = None,
    aligner: Annotated[str, Option(help="The mapping between the encoders.")] = "kernel-ridge",
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="A setting of the aligner; may be repeated."),
    ] = None,
    centre_on: Annotated[
        str | None,
        Option(
            metavar="FOLDER|none",
            help="What images are centred on, unlabelled: a FOLDER of images, best those to be labelled or "
            "searched; none, the aligner's own centre.  [default: none]",
        ),
    ] = None,
    words: Annotated[
        str | None,
        Option(
            help="Texts for the rows: plain (class names) or rich (synonyms, definitions, hypernyms too)."
        ),
    ] = None,
    template: options.Template = None,
    head: Annotated[
        list[str] | None,
        Option(
            help="Dotted name of the last linear layer, where it is not found by itself; tokens, for the "
            "head that headword train --keep-token-head left beside the model that --vision names."
        ),
    ] = None,
    with_encoders: Annotated[
        bool, Option("--with-encoders", help="Copy the encoders' weights into the folder.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a saved model at --out.")] = False,
    seed: Annotated[int, Option(help="Seed of what is random.")] = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Make a model that knows words from a classifier's head.

    Its rows are paired with its class names, a mapping is fitted, and the model saved.
    """
    from headword.files import check_new_folder

    check_new_folder(out, overwrite=overwrite)

    from headword.aligners import make_aligner
    from headword.encoders.own_module import resolve_vision
    from headword.recycling import recycle as run
    from headword.settings import words as words_of

    options_of_vision: dict[str, Any] = {"head": head} if head else {}
    model = run(
        resolve_vision(vision[0] if vision and len(vision) == 1 else vision or "embedded"), text,
        aligner=make_aligner(aligner, **words_of(set_ or ())), class_names=class_names, captions=captions,
        centre_on=None if centre_on == "none" else centre_on, words=words, templates=template, device=device,
        dtype=dtype, seed=seed, watch=output.progress, **options_of_vision,
    )  # fmt: skip
    model.save(out, with_encoders=with_encoders, overwrite=overwrite)
    from headword.cli.inspect import expectation, model_facts

    output.facts(f"Recycled into {out}", model_facts(model))
    output.table("Seconds", ("step", "s"), [(step, f"{s:.2f}") for step, s in model.timings.items()])
    if model.doubt:
        output.say(expectation(model.doubt))
    own = " + ".join(vision) if vision and any(one.startswith("module:") for one in vision) else None
    output.next_step(f'headword classify {quoted(out)} IMAGE --labels "a cat,a dog"{flags(vision=own)}')
    output.result(model=model.provenance(), metrics=dict(model.timings), seed=seed, out=str(out))
