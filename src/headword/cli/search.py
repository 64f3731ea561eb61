"""`headword search`: words, a picture, or both → the images of an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headword.cli.app import app
from headword.cli.common import Device, DeviceOption, JsonOption, Output, QuietOption

if TYPE_CHECKING:
    from headword.search import Hit, Query


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="The index's folder.")],
    words: Annotated[str | None, typer.Argument(help="What to search for, in words.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to find the like of; with words, both count.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="The same by a picture of the index: its path there.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option("--not", help="Words to stay away from; may be repeated.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="An SQL condition on path, folder, bytes, modified, tag and tag_score."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Search exactly, also where there is an approximate index.")
    ] = False,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Find the images of an index that are nearest to words, to a picture, or to both."""
    output = Output(quiet, json_to)
    from headword.search.query import Query

    query = Query(text=words, image=image, like=like, negative=tuple(negative or ()))
    query.check()
    from headword.search.client import ask_server

    answer = None
    if device is Device.auto and not exact:  # a server has its own device and engine
        answer = ask_server(index, query, k=k, where=where, about=json_to is not None)
    if answer is None:
        from headword.search.index import Index

        opened = Index.open(index, device=device.value)
        hits, about, environment = opened.search(query, k=k, where=where, exact=exact), opened.about(), None
        known = None if words is None else opened.coverage(words)
    else:
        hits, about, environment = answer.hits, answer.index, answer.environment
        known = answer.coverage
    show_hits(
        output,
        index,
        query,
        hits,
        k=k,
        where=where,
        about=about,
        environment=environment,
        engine="exact" if exact or where else about.get("engine", ""),
        coverage=known,
    )


def show_hits(
    output: Output,
    index: Path,
    query: Query,
    hits: Sequence[Hit],
    *,
    k: int,
    where: str | None,
    about: Mapping[str, Any],
    engine: str,
    coverage: tuple[float | None, bool] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Print hits, and write them as JSON where asked, with the environment if it is not this process's."""
    tagged = any(hit.tag is not None for hit in hits)
    rows = [
        (f"{n}", hit.path, f"{hit.score:.3f}", *([hit.tag or ""] if tagged else []))
        for n, hit in enumerate(hits, start=1)
    ]
    output.table(f"Found in {index}", ("", "image", "cosine", *(["tag"] if tagged else [])), rows)
    if not hits:
        output.say("No image satisfies the condition.")
    if coverage is not None and coverage[1]:
        known = "" if coverage[0] is None else f" (coverage {coverage[0]:.2f})"
        output.say(f"Out of the head's depth{known}, take with care. More: headword explain")
    asked = {
        "text": query.text,
        "image": None if query.image is None else str(query.image),
        "like": query.like,
        "negative": list(query.negative),
        "weights": [query.text_weight, query.image_weight, query.negative_weight],
    }
    if output.json_to is None:
        return
    output.result(
        "search",
        model=about["model"]["provenance"],
        protocol={"index": str(index), "query": asked, "k": k, "where": where, "engine": engine},
        results=[
            {"path": hit.path, "score": hit.score, "tag": hit.tag, "tag_score": hit.tag_score} for hit in hits
        ],
        coverage=None if coverage is None else coverage[0],
        out_of_depth=coverage is not None and coverage[1],
        **({} if environment is None else {"environment": environment}),
    )
