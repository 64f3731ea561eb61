"""`headword explain`: what words are made of, and whether the head knows enough to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted

if TYPE_CHECKING:
    from headword.scoring.explain import Explanation
    from headword.scoring.familiarity import Depth


@command('explain model "a zebra" "a birthday party"', 'explain model "a red bicycle" -k 3')
def explain(
    output: Output,
    model: options.Model,
    words: Annotated[list[str], Argument(help='Words, "each in quotation marks"; explained one by one.')],
    k: Annotated[int, Option("-k", min=1, help="How many prototypes to show for each.")] = 10,
    template: options.Template = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Show what words are made of, and whether the head knows enough.

    Words are weights of class prototypes; how well these cover them says how far to trust an answer.
    """
    from headword.encoders.prompts import check_labels

    check_labels(words)
    from headword.model import load

    encoder = load(model, vision=vision, device=device, defer_vision=True)
    templates = template or ["{}"]
    explained = encoder.explain(words, k=k, templates=templates)
    depths = encoder.depths(words, templates=templates)
    fit, doubt = encoder.familiarity_fit, encoder.doubt
    results = []
    for text, depth, explanation in zip(words, depths, explained, strict=True):
        output.table(title(text, depth), *cells(explanation))
        results.append({"text": text, **depth._asdict(), **explanation.as_json()})
    if doubt:
        output.say(f"Take all with care: {doubt}.")
    labels = quoted(",".join(words))
    output.next_step(f"headword classify {quoted(model)} IMAGE --labels {labels}{flags(vision=vision)}")
    output.result(
        model=encoder.provenance(),
        protocol={"templates": templates, "k": k, "familiarity": None if fit is None else fit.as_json()},
        results=results,
    )


def title(text: str, depth: Depth) -> str:
    """The words, their familiarity, and whether they are out of the head's depth."""
    known = [] if depth.familiarity is None else [f"familiarity {depth.familiarity:.2f}"]
    judgement = ": ".join(known + ["out of its depth"] * bool(depth.out_of_depth))
    return f"{text} ({judgement})" if judgement else text


def cells(explanation: Explanation) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
    """Columns and rows of an explanation's table."""
    rows = []
    for part in explanation.prototypes:
        name = part.name if part.words == part.name else f"{part.name} (as {part.words})"
        rows.append((name, f"{part.weight:+.3f}", "" if part.share is None else f"{part.share:+.1%}"))
    if explanation.kind == "cosines":
        return ("prototype", "cosine"), [row[:2] for row in rows]
    if explanation.others:
        others = f"{explanation.others:,} others"
        rows.append((others, f"{explanation.others_weight:+.3f}", f"{explanation.others_share:+.1%}"))
    return ("prototype", "weight", "share"), rows
