"""`headword push`: a saved model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output


@command("push model USER/NAME", "push model USER/NAME --private --results result.json")
def push(
    output: Output,
    model: options.Model,
    repo: Annotated[str, typer.Argument(help="USER/NAME on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    with_encoders: Annotated[
        bool, typer.Option("--with-encoders", help="Push the encoders' weights too; mind their licences.")
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What evaluate --json wrote of it, for the card; may be repeated."),
    ] = None,
    vision: options.Vision = None,
) -> None:
    """Push a saved model to the Hugging Face hub, with a card."""
    from headword.errors import HeadwordError
    from headword.files import read_json
    from headword.model import load

    read = [read_json(file) for file in results or ()]
    if not all(isinstance(one, dict) and isinstance(one.get("metrics"), dict) for one in read):
        raise HeadwordError("--results takes the JSON of headword evaluate")
    loaded = load(model, vision=vision, device="cpu")
    pushed = loaded.push(repo, private=private, with_encoders=with_encoders, results=read)
    output.say(f"Pushed to {pushed}")
    output.next_step(f'headword classify {pushed} IMAGE --labels "a cat,a dog"')
    output.result(model=loaded.provenance(), pushed=pushed)
