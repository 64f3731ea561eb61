"""`headword demo`: the main job on pictures that pip installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, quoted

if TYPE_CHECKING:
    from headword.demo.report import Labelled, Searched


@command("demo", "demo --out /tmp/demo --overwrite")
def demo(
    output: Output,
    out: Annotated[Path, Option("--out", "-o", help="Where to put the page and the model.")] = Path(
        "headword-demo"
    ),
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an earlier demo at --out.")] = False,
    device: options.Device = "auto",
) -> None:
    """Recycle a head, label and search pictures, write a page.

    The pictures are real, the words none of its classes; what comes out wrong is shown, too.
    """
    from headword.demo.tour import run_demo

    result = run_demo(out, overwrite=overwrite, device=device, watch=output.progress)
    output.table(
        f"Labelled: each picture with one of {len(result.labelled)} labels, none of them a class name",
        ("", "picture", "got", "", "own words"),
        [
            (mark(e), e.title, e.scores[0].label, f"{e.scores[0].probability:.0%}", str(e.expected))
            for e in result.labelled
        ],
    )
    output.table(
        "Searched: each sentence means one of the pictures",
        ("", "sentence", "first came", "meant one"),
        [(mark(s), s.query, s.hits[0].title, str(s.expected)) for s in result.searches],
    )
    labelled = sum(entry.expected.right for entry in result.labelled)
    searched = sum(s.expected.right for s in result.searches)
    output.say(f"{labelled} of {len(result.labelled)} pictures got their own words first.")
    output.say(f"{searched} of {len(result.searches)} sentences found the picture that was meant first.")
    output.say()
    output.facts("Seconds", [(step, f"{value:.2f}") for step, value in result.seconds.items()])
    output.say(f"Page: {result.page}")
    output.next_step(f'headword classify {quoted(result.saved)} YOUR.jpg --labels "a cat,a dog"')
    output.result(
        model=result.model.provenance(),
        metrics={
            **result.seconds, "own_words_first": labelled, "pictures": len(result.labelled),
            "meant_picture_first": searched, "sentences": len(result.searches),
        },
        results=[
            {"picture": title, "labels": [score._asdict() for score in scores], "own_words": own._asdict()}
            for _, title, scores, own, _ in result.labelled
        ],
        searches=[
            {"sentence": sentence, "meant": meant._asdict(),
             "hits": [{"picture": hit.title, "cosine": hit.cosine} for hit in hits]}
            for sentence, hits, meant in result.searches
        ],
        page=str(result.page),
    )  # fmt: skip


def mark(judged: Labelled | Searched) -> str:
    """Whether it came out right."""
    return "✓" if judged.expected.right else "✗"
