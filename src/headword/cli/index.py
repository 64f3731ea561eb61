"""`headword index`: a folder of images → an index to search, or one brought up to date."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted


@command("index model holiday/ --out index", "index model features/ --out index --centre-on none")
def index(
    output: Output,
    model: Annotated[Path | None, Argument(help="A saved model's folder.")] = None,
    folder: Annotated[
        Path | None, Argument(help="The images, subfolders included; or what headword embed wrote of them.")
    ] = None,
    out: Annotated[
        Path | None, Option("--out", "-o", help="The index's folder; one that is there is updated.")
    ] = None,
    check: Annotated[
        Path | None,
        Option(metavar="INDEX", help="Only check every file of this index; needs neither of the others."),
    ] = None,
    centre_on: Annotated[
        Literal["auto", "collection", "none"],
        Option(
            help="What images are centred on, unlabelled: collection, the images at hand themselves; none, "
            "the model's own centre. auto is as the index was made, else collection, but none for a model "
            "trained in one space."
        ),
    ] = "auto",
    engine: Annotated[Literal["auto", "torch", "openvino"], Option(help="What runs the model.")] = "auto",
    batch_size: options.BatchSize = 32,
    workers: Annotated[int | None, Option(min=1, help="How many decode at once.")] = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Index a folder of images, or bring an index up to date.

    Only new and changed files are embedded, and a run that was interrupted goes on where it stopped.
    """
    from headword.errors import HeadwordError

    if check is not None and model is folder is out is None:
        _check(output, check)
        return
    if model is None or folder is None or out is None or check is not None:
        raise HeadwordError("give MODEL FOLDER --out INDEX to index a folder, or --check INDEX alone")
    from headword.search import Index, build_index

    begin = time.perf_counter()
    with output.progress("images") as progress:
        changes = build_index(
            model, folder, out, vision=vision, centre_on=None if centre_on == "auto" else centre_on,
            engine=engine, dtype=dtype, batch_size=batch_size, workers=workers, device=device,
            progress=progress,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    about = Index.open(out).about()
    counts = {name: getattr(changes, name) for name in ("images", "added", "changed", "unchanged", "removed")}
    unreadable = len(changes.unreadable)
    facts = [
        *((name, f"{count:,}") for name, count in counts.items()),
        ("unreadable, left out", f"{unreadable:,}"),
        *([("damaged, now mended", f"{changes.mended:,}")] if changes.mended else []),
        ("centred on", "the collection" if about["centre"]["kind"] == "collection" else "as the model is"),
        ("features", f"{about['features']['engine']} in {about['features']['precision']}"),
        ("search", about["engine"]),
        ("seconds", f"{seconds:.1f}"),
    ]
    output.facts(f"Index {out} of {folder}", facts)
    output.unreadable(changes.unreadable)
    for note in changes.notes:
        output.say(note)
    output.next_step(
        f"headword search {quoted(out)} WORDS, or headword app {quoted(out)}{flags(vision=vision)}"
    )
    output.result(
        model=about["model"]["provenance"],
        protocol={"folder": str(folder), "centre": about["centre"], "features": about["features"]},
        metrics={"seconds": seconds, **counts, "unreadable": unreadable, "mended": changes.mended},
        unreadable=changes.unreadable,
        outside=changes.outside,
        notes=list(changes.notes),
        index=str(out),
        search=about["engine"],
    )


def _check(output: Output, index: Path) -> None:
    from headword.search import Index

    begin = time.perf_counter()
    opened = Index.open(index)
    with output.progress("rows") as progress:
        checked = opened.check(progress=progress)
    seconds = time.perf_counter() - begin
    facts = [("images", f"{len(opened):,}"), ("bytes", f"{checked:,}"), ("seconds", f"{seconds:.1f}")]
    output.facts(f"Every file of {index} is as it was written", facts)
    output.result(
        model=opened.about()["model"]["provenance"],
        protocol={"check": str(index)},
        metrics={"images": len(opened), "bytes": checked, "seconds": seconds},
    )
