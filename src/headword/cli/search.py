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

MAY = 0.1
"""Relevance from which a hit may show the words."""

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
    k: Annotated[int, Option("-k", min=1, help="How many images at most.")] = 20,
    every: Annotated[
        bool, Option("--all", help="Not only those that probably show the words: the -k nearest.")
    ] = False,
    min_relevance: Annotated[
        float | None,
        Option(
            min=0, max=1, metavar="P", help="The least chance to show the words, in place of a query's own."
        ),
    ] = None,
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
    """Find the images of an index that probably show some words.

    Or the nearest to a picture, or to both. With --where alone, list those that satisfy it.
    """
    if every and min_relevance is not None:
        raise HeadwordError("--all and --min-relevance exclude each other; give one of them")
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
        doubt = None if listing else opened.model.doubt
    else:
        hits, about, environment = answer.hits, answer.index, answer.environment
        doubt = answer.doubt
    least = hits.least_shown if min_relevance is None else min_relevance
    shown = hits if every or least is None else likely(hits, least)
    if paths:
        for path in absolute(index, shown):
            typer.echo(os.fsencode(path))
    else:
        show_hits(output, index, shown, scored=not listing)
        if not hits:
            output.say("No image satisfies the condition.")
        elif hits.least_shown is not None:
            output.say(summary(hits, shown))
        if doubt is not None:
            output.say(f"Take with care: {doubt}.")
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
        least_shown=least,
        doubt=doubt,
        **({} if environment is None else {"environment": environment}),
    )


def likely(hits: Sequence[Hit], least: float) -> list[Hit]:
    """The hits of at least this relevance."""
    return [hit for hit in hits if hit.relevance is None or hit.relevance >= least]


def summary(hits: Sequence[Hit], shown: Sequence[Hit]) -> str:
    """How many hits are shown, and how many of the others may show the words."""
    rest = len(likely(hits, MAY)) - len(likely(shown, MAY))
    if not shown:
        return f"Nothing seems to show it; the {len(hits)} nearest all the same: --all"
    pictures = f"{len(shown)} picture{'s' * (len(shown) != 1)}"
    return f"{pictures}; {rest} more that may show it: --all" if rest > 0 else pictures


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
    if any(hit.relevance is not None for hit in hits):
        shown["relevance"] = ["" if hit.relevance is None else f"{hit.relevance:.0%}" for hit in hits]
    if any(hit.tag is not None for hit in hits):
        shown["tag"] = [hit.tag or "" for hit in hits]
    shown["image"] = [hit.path for hit in hits]
    if hits:
        output.table(f"Found in {index}", list(shown), zip(*shown.values(), strict=True), whole="image")
