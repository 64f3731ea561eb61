"""`headword duplicates`: the images of an index that are there more than once."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted

_SHOWN = 20  # groups, to people


@command("duplicates index", "duplicates index --similarity 0.98 --json groups.json")
def duplicates(
    output: Output,
    index: options.Index,
    similarity: Annotated[
        float | None,
        Option(min=-1, max=1, help="The least cosine of features; measured on altered copies if not given."),
    ] = None,
    model: options.IndexModel = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Group images that are there more than once.

    All pairs are compared, exactly. Where duplicates begin is measured on the images themselves: by copies
    that are smaller, rougher, cropped or brighter, and by what lies nearest anyway. Nothing is removed.
    """
    from headword.search.duplicates import find_duplicates
    from headword.search.index import Index

    opened = Index.open(index, model=model, vision=vision, device=device)
    with output.progress("images") as progress:
        found = find_duplicates(opened, similarity=similarity, progress=progress)
    groups = found.groups
    rows = [
        (f"{number}", f"{hit.score:.3f}", hit.path)
        for number, group in enumerate(groups[:_SHOWN], start=1)
        for hit in group
    ]
    if groups:
        output.table(f"Duplicates in {index}", ("group", "cosine", "image"), rows, whole="image")
    more = f"; the first {_SHOWN} are shown, all are in the JSON (--json)" if len(groups) > _SHOWN else ""
    output.say(
        f"{len(groups):,} groups of {sum(map(len, groups)):,} images with cosines of {found.similarity:.3f} "
        f"and more{more}"
    )
    if groups:
        like = flags(like=groups[0][0].path, model=model, vision=vision)
        output.next_step(f"headword search {quoted(index)}{like}")
    output.result(
        model=opened.about()["model"]["provenance"],
        protocol={"index": str(index), "similarity": found.similarity, "measured": similarity is None},
        groups=[[{"path": hit.path, "cosine": hit.score} for hit in group] for group in groups],
    )
