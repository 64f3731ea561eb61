"""`headword demo`: the main job on pictures that pip installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headword.cli.app import app
from headword.cli.common import Device, DeviceOption, JsonOption, Output, QuietOption


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to put the page and the model.")] = Path(
        "headword-demo"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo at --out.")] = False,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Recycle a head, label and search real pictures with words it was never taught, write a page that
    shows it.
    """
    output = Output(quiet, json_to)
    output.say("Recycling the head of an image classifier; this takes some seconds …")
    from headword.demo import run_demo

    result = run_demo(out, overwrite=overwrite, device=device.value)
    rows = [
        (entry.title, entry.scores[0].label, f"{entry.scores[0].probability:.0%}")
        for entry in result.labelled
    ]
    output.table(
        "Pictures and the words they got (none is a class name)", ("picture", "words", "probability"), rows
    )
    hits = [(found.query, found.hits[0].title, f"{found.hits[0].cosine:.2f}") for found in result.found]
    output.table("Searched by sentences", ("sentence", "first picture", "cosine"), hits)
    output.facts("Seconds", [(step, f"{value:.2f}") for step, value in result.seconds.items()])
    output.say(f"{result.right} of {len(result.labelled)} pictures got their own words first.")
    output.say(f"Page:  {result.page}")
    output.say(f'Model: {result.saved}   (headword classify {result.saved} YOUR.jpg --labels "a cat,a dog")')
    output.result(
        "demo",
        model=result.model.provenance(),
        metrics={**result.seconds, "own_words_first": result.right, "pictures": len(result.labelled)},
        results=[
            {"picture": e.title, "labels": [score._asdict() for score in e.scores]} for e in result.labelled
        ],
        page=str(result.page),
    )
