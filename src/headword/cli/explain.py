"""`headword explain`: what words are made of, and whether the head knows enough to tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted

if TYPE_CHECKING:
    from headword.scoring.explain import Explanation


@command('explain model "a zebra" "a birthday party"', 'explain model "a red bicycle" -k 3')
def explain(
    model: Annotated[Path, typer.Argument(help="A saved model's folder.")],
    words: Annotated[
        list[str], typer.Argument(help='Words, "each in quotation marks"; explained one by one.')
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many prototypes to show for each.")] = 10,
    template: options.Template = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json_to: options.Json = None,
) -> None:
    """Show what words are made of, and whether the head knows enough.

    Words are weights of class prototypes; how well these cover them says how far to trust an answer.
    """
    output = Output(quiet, json_to)
    from headword.encoders.prompts import check_labels

    check_labels(words)
    from headword.model import load

    encoder = load(model, vision=vision, device=device, defer_vision=True)
    templates = template or ["{}"]
    explained = encoder.explain(words, k=k, templates=templates)
    fit, doubt = encoder.familiarity_fit, encoder.doubt
    covered = None if fit is None else encoder.familiarity(words, templates=templates).tolist()
    results = []
    for n, (text, explanation) in enumerate(zip(words, explained, strict=True)):
        familiarity = None if covered is None else covered[n]
        far = True if doubt else None if fit is None or familiarity is None else familiarity < fit.low
        output.table(title(text, familiarity, bool(far)), *cells(explanation))
        results.append(
            {"text": text, "familiarity": familiarity, "out_of_depth": far, **explanation.as_json()}
        )
    if doubt:
        output.say(f"Take all with care: {doubt}.")
    labels = quoted(",".join(words))
    output.next_step(f"headword classify {quoted(model)} IMAGE --labels {labels}{flags(vision=vision)}")
    output.result(
        "explain",
        model=encoder.provenance(),
        protocol={"templates": templates, "k": k, "familiarity": None if fit is None else fit.as_json()},
        results=results,
    )


def title(text: str, familiarity: float | None, far: bool) -> str:
    """The words, their familiarity, and whether they are out of the head's depth."""
    said = [*([] if familiarity is None else [f"familiarity {familiarity:.2f}"]), *["out of its depth"] * far]
    return f"{text} ({': '.join(said)})" if said else text


def cells(explanation: Explanation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of an explanation's table."""
    rows: list[tuple[str, ...]] = []
    for part in explanation.prototypes:
        said = part.name if part.words == part.name else f"{part.name} (as {part.words})"
        rows.append((said, f"{part.weight:+.3f}", "" if part.share is None else f"{part.share:+.1%}"))
    if explanation.kind == "cosines":
        return ("prototype", "cosine"), [row[:2] for row in rows]
    if explanation.others:
        rows.append(
            (
                f"{explanation.others:,} others",
                f"{explanation.others_weight:+.3f}",
                f"{explanation.others_share:+.1%}",
            )
        )
    return ("prototype", "weight", "share"), rows
