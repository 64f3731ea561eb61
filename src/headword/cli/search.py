"""`headword search`: words, a picture, or both → the images of an index."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted
from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.search import Hit

LONG_SECONDS = 3.0
"""A search that took longer says that a server makes it quick."""


@command(
    "search index children playing football --not indoors",
    "search index a red bicycle -k 50 --paths > found.txt",
)
def search(
    output: Output,
    index: options.Index,
    words: Annotated[
        list[str] | None, Argument(help="What to search for, with or without quotation marks.")
    ] = None,
    image: Annotated[
        Path | None, Option(help="A picture to find the like of; with words, both count.")
    ] = None,
    like: Annotated[str | None, Option(help="The same by a picture of the index: its path there.")] = None,
    negative: Annotated[
        list[str] | None, Option("--not", help="Words to stay away from; may be repeated.")
    ] = None,
    k: Annotated[int, Option("-k", min=1, help="How many images.")] = 10,
    where: Annotated[
        str | None,
        Option(help="A condition, as in SQL, on path, folder, bytes, modified, tag and tag_score."),
    ] = None,
    paths: Annotated[
        bool, Option("--paths", help="Print the images' absolute paths alone, one a line.")
    ] = False,
    model: options.IndexModel = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Find the images of an index that are nearest to words.

    Or to a picture, or to both. With --where alone, list those that satisfy it.
    """
    if paths and output.json_to == "-":
        raise HeadwordError("--paths and --json - both write to standard output; give one of them")
    from headword.search.query import Query

    text = " ".join(words) if words else None
    query = Query(text=text, image=image, like=like, negative=tuple(negative or ()))
    listing = where is not None and query == Query()
    if not listing:
        query.check()
    from headword.server.client import ask_server

    begin = time.perf_counter()
    answer = None
    if device == "auto" and not listing:  # a server has its own
        answer = ask_server(index, query, k=k, where=where, about=output.json_to is not None)
    if answer is None:
        from headword.search.index import Index

        opened = Index.open(index, model=model, vision=vision, device=device)
        hits = opened.browse(k=k, where=where) if listing else opened.search(query, k=k, where=where)
        about, environment = opened.about(), None
        known = None if text is None else opened.familiarity(text)
    else:
        hits, about, environment = answer.hits, answer.index, answer.environment
        known = answer.familiarity
    if paths:
        for path in absolute(index, hits):
            typer.echo(os.fsencode(path))
    else:
        show_hits(output, index, hits, scored=not listing)
        if known is not None and known[1]:
            much = "" if known[0] is None else f" (familiarity {known[0]:.2f})"
            output.say(
                f"Out of the head's depth{much}, take with care; headword explain MODEL WORDS says why."
            )
        if answer is not None:
            output.say(f"Answered by the server at {answer.url}")
        elif time.perf_counter() - begin > LONG_SECONDS:
            output.say(f"While headword app {index} runs, a search takes a fraction of a second.")
        other = next((hit.path for hit in hits if hit.path != like), None)
        if other is not None:
            more = flags(like=other, model=model, vision=vision)
            output.next_step(f"headword search {quoted(index)}{more}")
    if output.json_to is None:
        return
    typed = {
        "text": text, "image": None if image is None else str(image), "like": like,
        "negative": list(query.negative),
        "weights": [query.text_weight, query.image_weight, query.negative_weight],
    }  # fmt: skip
    output.result(
        model=about["model"]["provenance"],
        protocol={"index": str(index), "query": typed, "k": k, "where": where, "engine": about["engine"]},
        results=[{**asdict(hit), **({"score": None} if listing else {})} for hit in hits],
        familiarity=None if known is None else known[0],
        out_of_depth=known is not None and known[1],
        **({} if environment is None else {"environment": environment}),
    )


def absolute(index: Path, hits: Sequence[Hit]) -> list[Path]:
    """The files that were found."""
    from headword.files import expand
    from headword.search.manifest import Manifest

    if any("\\x" in hit.path for hit in hits):  # stands for a byte that is no UTF-8; the index knows it
        from headword.search.index import Index

        opened = Index.open(index)
        return [opened.file(hit.path) for hit in hits]
    root = Path(Manifest.read(expand(index)).root)
    return [root / hit.path for hit in hits]


def show_hits(output: Output, index: Path, hits: Sequence[Hit], *, scored: bool) -> None:
    """Print hits; without their cosines where nothing was searched for."""
    shown = {"": [f"{n}" for n in range(1, len(hits) + 1)]}
    if scored:
        shown["cosine"] = [f"{hit.score:.3f}" for hit in hits]
    if any(hit.tag is not None for hit in hits):
        shown["tag"] = [hit.tag or "" for hit in hits]
    shown["image"] = [hit.path for hit in hits]
    if hits:
        output.table(f"Found in {index}", list(shown), zip(*shown.values(), strict=True), whole="image")
    else:
        output.say("No image satisfies the condition.")
