"""`headword evaluate` and `headword compare`: protocols on models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headword.cli.app import command
from headword.cli.common import (
    CENTRE_HELP,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    Output,
    QuietOption,
    TemplateOption,
    VisionOption,
    quoted,
)
from headword.errors import HeadwordError
from headword.files import expand

if TYPE_CHECKING:
    from headword.evaluation import Protocol, Result

TaskOption = Annotated[str, typer.Option(help="classification (zero-shot), retrieval, probe or few-shot.")]
DataOption = Annotated[
    str,
    typer.Option(
        help="Class folders, a .csv of images and labels, hf:NAME, torchvision:NAME or wds:SHARDS; for "
        "retrieval, a caption file."
    ),
]
SplitOption = Annotated[
    str | None, typer.Option(help="Which part of the data.  [default: test, else val, else all]")
]
TrainSplitOption = Annotated[
    str | None, typer.Option(help="Where shots come from; the tested images themselves when not given.")
]
NamesOption = Annotated[
    Path | None, typer.Option(help="Class names, one a line, in the order of the data's own.")
]
CentreOption = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|collection|online|none|…",
        help=f"{CENTRE_HELP} Here also first:N, the first N of the tested images, and reference, the images "
        "of --hubness.",
    ),
]
CollectionOption = Annotated[
    str,
    typer.Option(help="Label all tested images at once: csls, inverted-softmax, sinkhorn or adapt; or off."),
]
PriorOption = Annotated[
    str | None, typer.Option(help="For sinkhorn: uniform, or a JSON file from class name to share.")
]
HubnessOption = Annotated[
    str | None,
    typer.Option(help="For retrieval: a split whose images and texts say what is near to everything."),
]
KOption = Annotated[
    list[int] | None, typer.Option("-k", min=1, help="A k of top-k or recall@k; may be repeated.")
]
ShotsOption = Annotated[
    list[int] | None, typer.Option(help="Images a class for probe and few-shot; may be repeated.")
]
DrawsOption = Annotated[int, typer.Option(help="How often shots are drawn.")]
MissingOption = Annotated[str, typer.Option(help="Captions of missing images: error, or skip and count.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the draws.")]


@command(
    "evaluate model --task classification --data folders/",
    "evaluate model --task retrieval --data captions.jsonl -k 1 -k 10",
)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A saved model's folder, embedded, open_clip:ARCH/TAG (or a checkpoint) or transformers:ID."
        ),
    ],
    task: TaskOption,
    data: DataOption,
    split: SplitOption = None,
    train_split: TrainSplitOption = None,
    class_names: NamesOption = None,
    template: TemplateOption = None,
    centre_on: CentreOption = "none",
    collection: CollectionOption = "off",
    prior: PriorOption = None,
    hubness: HubnessOption = None,
    k: KOption = None,
    shots: ShotsOption = None,
    draws: DrawsOption = 3,
    missing: MissingOption = "error",
    seed: SeedOption = 0,
    vision: VisionOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Measure a model by a named protocol."""
    output = Output(quiet, json_to)
    protocol = _protocol(
        task, data, split, train_split, class_names, template, centre_on, collection, prior, hubness, k,
        shots, draws, missing, seed,
    )  # fmt: skip
    from headword.evaluation import evaluate as run
    from headword.evaluation import open_subject
    from headword.evaluation.tasks import check_data

    check_data(protocol)
    subject = open_subject(model, vision=vision, device=device.value, dtype=dtype.value)
    with output.progress("images") as progress:
        result = run(subject, protocol, progress=progress)
    rows: list[tuple[str, str]] = []
    for key in ("images", "classes", "captions"):
        if isinstance(count := result.data.get(key), int):
            rows.append((key, f"{count:,}"))
    rows += [(key, f"{value:.2f}" + " %" * (key != "seconds")) for key, value in result.metrics.items()]
    output.table(f"{result.name}: {result.protocol.title}", ("metric", "value"), rows)
    _remarks(output, [result])
    output.next_step(f"headword compare {quoted(model)} OTHER --task {task} --data {quoted(data)}")
    output.result("evaluate", **result.parts())


@command(
    "compare model open_clip:ViT-B-32/openai --task probe --data set/",
    "compare model --aligners ridge,cca --task probe --data set/",
)
def compare(
    models: Annotated[list[str], typer.Argument(help="Models as for evaluate; one with --aligners.")],
    task: TaskOption,
    data: DataOption,
    aligners: Annotated[
        str | None, typer.Option(help='Mappings to fit on the one model\'s pairs, "kernel-ridge,ridge,cca".')
    ] = None,
    split: SplitOption = None,
    train_split: TrainSplitOption = None,
    class_names: NamesOption = None,
    template: TemplateOption = None,
    centre_on: CentreOption = "none",
    collection: CollectionOption = "off",
    prior: PriorOption = None,
    hubness: HubnessOption = None,
    k: KOption = None,
    shots: ShotsOption = None,
    draws: DrawsOption = 3,
    missing: MissingOption = "error",
    seed: SeedOption = 0,
    vision: VisionOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Measure several models, or mappings, by one protocol."""
    output = Output(quiet, json_to)
    if aligners is not None and len(models) != 1:
        raise HeadwordError("--aligners exchanges the mapping of one model; give one")
    if aligners is None and len(models) < 2:
        raise HeadwordError("give two models or more, or --aligners with one")
    protocol = _protocol(
        task, data, split, train_split, class_names, template, centre_on, collection, prior, hubness, k,
        shots, draws, missing, seed,
    )  # fmt: skip
    from headword.evaluation import compare as run
    from headword.evaluation import open_subject
    from headword.evaluation.protocol import table
    from headword.evaluation.tasks import check_aligners, check_data, with_aligners

    mappings = [name.strip() for name in (aligners or "").split(",")]
    if aligners is not None:
        check_aligners(mappings)
    check_data(protocol)
    saved = {model for model in models if expand(model).is_dir()} or set(models)
    opened = (
        open_subject(model, vision=vision if model in saved else None, device=device.value, dtype=dtype.value)
        for model in models
    )
    if aligners is None:
        subjects: Any = opened
    else:
        subjects = with_aligners(next(opened), mappings)
    with output.progress("images") as progress:
        results = run(subjects, protocol, progress=progress)
    protocol = replace(protocol, split=results[0].protocol.split)
    output.table(protocol.title, *table(results))
    _remarks(output, results)
    output.next_step("--json FILE keeps the result with its protocol and seed")
    output.result(
        "compare",
        protocol=protocol.as_json(),
        seed=seed,
        results=[result.parts() for result in results],
    )


def _protocol(
    task: str,
    data: str,
    split: str | None,
    train_split: str | None,
    class_names: Path | None,
    template: list[str] | None,
    centre_on: str,
    collection: str,
    prior: str | None,
    hubness: str | None,
    k: list[int] | None,
    shots: list[int] | None,
    draws: int,
    missing: str,
    seed: int,
) -> Protocol:
    from headword.evaluation import Protocol
    from headword.head.names import class_names as read_names

    values: dict[str, Any] = {
        "task": task, "data": data, "split": split, "train_split": train_split, "templates": template,
        "centre_on": centre_on, "collection": collection, "prior": prior, "hubness": hubness, "k": k,
        "draws": draws, "missing": missing, "seed": seed,
    }  # fmt: skip
    if shots:
        values["shots"] = shots
    if class_names is not None:
        values["class_names"] = [entry.name for entry in read_names(class_names)]
    return Protocol.from_dict(values)


def _remarks(output: Output, results: list[Result]) -> None:
    """What of the data was not measured, and notes; each said once."""
    lines: list[str] = []
    for result in results:
        skipped = result.data["skipped"]
        if skipped:
            lines.append(f"{len(skipped)} unreadable images were left out:")
            lines += [f"  {line}" for line in skipped]
        if result.data.get("missing"):
            lines.append(f"{result.data['missing']} missing images were left out with their captions")
        if empty := result.data.get("classes_without_images"):
            lines.append(f"{len(empty)} classes have no image: {', '.join(empty[:5])}")
        lines += result.notes
    for line in dict.fromkeys(lines):
        output.say(line)
