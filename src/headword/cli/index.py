"""`headword index`: a folder of images → an index to search, or one brought up to date."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from headword.cli.app import app
from headword.cli.common import Device, DeviceOption, Dtype, DtypeOption, JsonOption, Output, QuietOption


class IndexCentre(str, Enum):
    """What an index centres its images on."""

    collection = "collection"
    none = "none"


class IndexEngine(str, Enum):
    """What runs the model."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"


@app.command()
def index(
    model: Annotated[Path, typer.Argument(help="A saved model's folder.")],
    folder: Annotated[Path, typer.Argument(help="The images, subfolders included.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The index's folder; one that is there is updated.")
    ],
    centre_on: Annotated[
        IndexCentre | None,
        typer.Option(
            help="Centre on the mean of all images of the index (collection, the default), or as the model "
            "is (none)."
        ),
    ] = None,
    engine: Annotated[IndexEngine, typer.Option(help="What runs the model.")] = IndexEngine.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model together.")] = 32,
    workers: Annotated[int | None, typer.Option(min=1, help="How many decode at once.")] = None,
    approximate: Annotated[
        bool | None,
        typer.Option(help="Keep an approximate index too; by default from 1,000,000 images on."),
    ] = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Index a folder of images, or bring an index up to date: only new and changed files are embedded."""
    output = Output(quiet, json_to)
    from headword.search import Index, build_index

    begin = time.perf_counter()
    with output.progress("images") as progress:
        changes = build_index(
            model,
            folder,
            out,
            centre_on=None if centre_on is None else centre_on.value,
            engine=engine.value,
            dtype=dtype.value,
            batch_size=batch_size,
            workers=workers,
            approximate=approximate,
            device=device.value,
            progress=progress,
        )
    seconds = time.perf_counter() - begin
    about = Index.open(out).about()
    facts = [
        ("images", f"{changes.images:,}"),
        ("added", f"{changes.added:,}"),
        ("changed", f"{changes.changed:,}"),
        ("unchanged", f"{changes.unchanged:,}"),
        ("removed", f"{changes.removed:,}"),
        ("unreadable, left out", f"{len(changes.unreadable):,}"),
        ("centred on", "the collection" if about["centre"]["kind"] == "collection" else "as the model is"),
        ("features", f"{about['features']['engine']} in {about['features']['precision']}"),
        ("search", about["engine"]),
        ("seconds", f"{seconds:.1f}"),
    ]
    output.facts(f"Index {out} of {folder}", facts)
    output.unreadable(changes.unreadable)
    for note in changes.notes:
        output.say(note)
    output.say(f'Search it: headword search {out} "words"')
    output.result(
        "index",
        model=about["model"]["provenance"],
        protocol={"folder": str(folder), "centre": about["centre"], "features": about["features"]},
        metrics={
            "seconds": seconds,
            "images": changes.images,
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
            "unchanged": changes.unchanged,
            "unreadable": len(changes.unreadable),
        },
        unreadable=changes.unreadable,
        outside=changes.outside,
        notes=list(changes.notes),
        index=str(out),
        search=about["engine"],
        approximate=about["approximate"],
    )
