"""`headword tag`: zero-shot labels for all images of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headword.cli.app import app
from headword.cli.classify import read_labels
from headword.cli.common import Device, DeviceOption, JsonOption, Output, QuietOption, TemplateOption


@app.command()
def tag(
    index: Annotated[Path, typer.Argument(help="The index's folder.")],
    labels: Annotated[
        str | None,
        typer.Option(help='Words to choose from, "a cat,a dog"; with commas in them, use --labels-file.'),
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Words to choose from, one a line.")] = None,
    template: TemplateOption = None,
    none_of_these: Annotated[
        bool, typer.Option(help="Leave images without a tag that no label fits.")
    ] = False,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Give every image of an index the label that fits it best, for filters: --where "tag = 'a cat'"."""
    output = Output(quiet, json_to)
    words = read_labels(labels, labels_file)
    from headword.encoders.prompts import check_labels

    check_labels(words)
    from headword.search import Index

    opened = Index.open(index, device=device.value)
    with output.progress("images") as progress:
        counts = opened.tag(words, template=template, none_of_these=none_of_these, progress=progress)
    untagged = len(opened) - sum(counts.values())
    rows = [
        (label, f"{counts.get(label, 0):,}") for label in [*counts, *(w for w in words if w not in counts)]
    ]
    output.table(
        f"Tags of {index}", ("tag", "images"), rows + ([("none", f"{untagged:,}")] if untagged else [])
    )
    about, doubt = opened.about(), opened.model.doubt
    if doubt:
        output.say(f"Take these with care: {doubt}.")
    output.result(
        "tag",
        model=about["model"]["provenance"],
        protocol={"index": str(index), "labels": words, "none_of_these": none_of_these,
                  "templates": about["tags"]["template"]},
        counts=counts,
        doubt=doubt,
        untagged=untagged,
    )  # fmt: skip
