"""`headword evaluate`: a protocol on models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, quoted

if TYPE_CHECKING:
    from headword.evaluation import Result

# Options, by the group that help lists them in.
protocol_option, data_option, words_option, collection_option, models_option = (
    partial(Option, rich_help_panel=group)
    for group in ("Protocol", "Data", "Words and centre", "Whole collections", "Models")
)


@command(
    "evaluate model --task classification --data folders/",
    "evaluate model-a model-b --task retrieval --data captions.jsonl",
)
def evaluate(
    output: Output,
    models: Annotated[
        list[str],
        Argument(
            metavar="MODEL",
            help="A saved model's folder, embedded, open_clip:ARCH/TAG (or a checkpoint) or transformers:ID; "
            "several are put in one table.",
        ),
    ],
    protocol: Annotated[
        Path | None,
        protocol_option(
            metavar="FILE", help="The protocol as YAML or JSON; options given beside it go first."
        ),
    ] = None,
    task: Annotated[
        str | None,
        protocol_option(
            help="classification (zero-shot), retrieval, probe, few-shot, localisation (against boxes) or "
            "segmentation (against masks)."
        ),
    ] = None,
    k: Annotated[
        list[int] | None, protocol_option("-k", help="A k of top-k or recall@k; may be repeated.")
    ] = None,
    metric: Annotated[str | None, protocol_option(help="The metric that a table is sorted by.")] = None,
    shots: Annotated[
        list[int] | None,
        protocol_option(
            help="Images a class for probe and few-shot; may be repeated.  [default: 1, 2, 4, 8, 16]"
        ),
    ] = None,
    probe: Annotated[
        bool | None,
        protocol_option("--probe", help="For segmentation: a linear layer on features of places, no words."),
    ] = None,
    draws: Annotated[int | None, protocol_option(help="How often shots are drawn.  [default: 3]")] = None,
    seed: Annotated[int | None, protocol_option(help="Seed of what is drawn.  [default: 0]")] = None,
    data: Annotated[
        str | None,
        data_option(
            help="Class folders, a table of images and labels, hf:NAME, torchvision:NAME or wds:SHARDS; for "
            "retrieval, a caption file; for localisation, a JSON of boxes; for segmentation, a folder of "
            "masks or COCO's panoptic JSON."
        ),
    ] = None,
    split: Annotated[
        str | None, data_option(help="Which part of the data.  [default: test, else val, else all]")
    ] = None,
    train_split: Annotated[
        str | None, data_option(help="Where shots come from; the tested images themselves when not given.")
    ] = None,
    class_names: Annotated[
        Path | None,
        data_option(metavar="FILE", help="Class names, one a line, in the order of the data's own."),
    ] = None,
    missing: Annotated[
        str | None,
        data_option(help="Captions of missing images: error, or skip and count.  [default: error]"),
    ] = None,
    classifier: Annotated[
        Path | None, words_option(metavar="DIR", help="What headword teach wrote, or the page.")
    ] = None,
    template: Annotated[list[str] | None, words_option(help=options.TEMPLATE_HELP)] = None,
    centre_on: Annotated[
        str | None,
        words_option(
            metavar="FOLDER|collection|online|none|…",
            help=f"{options.CENTRE_HELP} Here also first:N, the first N of the tested images, and reference, "
            "the images of --hubness.  [default: none]",
        ),
    ] = None,
    collection: Annotated[
        str | None,
        collection_option(
            help="Label all tested images at once: csls, inverted-softmax, sinkhorn or adapt; or off.  "
            "[default: off]"
        ),
    ] = None,
    prior: Annotated[
        str | None, collection_option(help="For sinkhorn: uniform, or a JSON file from class name to share.")
    ] = None,
    hubness: Annotated[
        str | None,
        collection_option(
            help="For retrieval: a split whose images and texts say what is near to everything."
        ),
    ] = None,
    aligners: Annotated[
        str | None,
        models_option(
            metavar="NAMES",
            help='Mappings to put in one table, "kernel-ridge,ridge,cca", each fitted on the one model\'s '
            "pairs.",
        ),
    ] = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Measure models, or mappings of one, by a named protocol."""
    from headword.evaluation import Protocol
    from headword.evaluation import evaluate as run
    from headword.head.names import class_names as read_names

    names = None if class_names is None else [entry.name for entry in read_names(class_names)]
    settings = Protocol.from_sources(
        protocol, task=task, data=data, split=split, train_split=train_split, class_names=names,
        classifier=None if classifier is None else str(classifier), templates=template, centre_on=centre_on,
        collection=collection, prior=prior, hubness=hubness, k=k, shots=shots, probe=probe, draws=draws,
        missing=missing, metric=metric, seed=seed,
    )  # fmt: skip
    mappings = None if aligners is None else [name.strip() for name in aligners.split(",")]
    with output.progress("images") as progress:
        results = run(
            models, settings, aligners=mappings, vision=vision, device=device, dtype=dtype,
            progress=progress,
        )  # fmt: skip
    _show(output, results)
    if len(results) > 1:
        output.next_step("--json FILE keeps the result with its protocol and seed")
        settled = settings.replace(split=results[0].protocol.split).as_dict()
        parts = [result.parts() for result in results]
        output.result(protocol=settled, seed=settings.seed, results=parts)
    else:
        where = f"--task {settings.task} --data {quoted(settings.data)}"
        output.next_step(f"headword evaluate {quoted(models[0])} OTHER {where}")
        output.result(**results[0].parts())


def _show(output: Output, results: list[Result]) -> None:
    """A result's metrics, or a table of several; then what of the data was not measured, and notes, once."""
    from headword.evaluation.protocol import table

    first = results[0]
    if len(results) > 1:
        output.table(first.protocol.title, *table(results))
    else:
        counts = [(key, first.data.get(key)) for key in ("images", "classes", "captions")]
        rows = [(key, f"{count:,}") for key, count in counts if isinstance(count, int)]
        rows += [(key, f"{value:.2f}" + " %" * (key != "seconds")) for key, value in first.metrics.items()]
        output.table(f"{first.name}: {first.protocol.title}", ("metric", "value"), rows)
    lines: list[str] = []
    for result in results:
        if skipped := result.data["skipped"]:
            lines += [f"{len(skipped)} unreadable images were left out:", *(f"  {line}" for line in skipped)]
        if missing := result.data.get("missing"):
            lines.append(f"{missing} missing images were left out with their captions")
        if empty := result.data.get("classes_without_images"):
            lines.append(f"{len(empty)} classes have no image: {', '.join(empty[:5])}")
        lines += result.notes
    for line in dict.fromkeys(lines):
        output.say(line)
