"""`headword inspect`: what a classifier's head is, or what a saved model was made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headword.cli.app import app
from headword.cli.common import Device, DeviceOption, JsonOption, Output, QuietOption

if TYPE_CHECKING:
    from headword.dual_encoder import DualEncoder
    from headword.encoders import VisionEncoder


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="A saved model's folder, or a classifier as for recycle --vision.")
    ],
    class_names: Annotated[
        Path | None, typer.Option(help="Class names for a classifier that has none.")
    ] = None,
    head: Annotated[list[str] | None, typer.Option(help="Dotted name of the last linear layer.")] = None,
    names: Annotated[int, typer.Option(help="How many class names to show.")] = 10,
    device: DeviceOption = Device.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Show what a head is, what its rows are called, its licence, and what would be recycled."""
    output = Output(quiet, json_to)
    from headword.saved_model import CONFIG

    if (Path(model).expanduser() / CONFIG).is_file():
        from headword.saved_model import load

        saved = load(model, device=device.value)
        output.facts(f"Saved model {model}", model_facts(saved))
        _show_classes(output, saved.vision, names)
        output.result("inspect", model=saved.provenance(), classes=[c.as_json() for c in saved.classes])
        return
    from headword.encoders import load_vision

    vision = load_vision(model, names=class_names, head=head, device=device.value)
    output.facts(f"Classifier {vision.name}", vision_facts(vision))
    _show_classes(output, vision, names)
    output.say(
        f"Recycling would pair {vision.head.n_classes:,} rows of width {vision.dim:,} with the names of "
        f"their classes: "
        f"headword recycle --vision {model} --out DIR"
    )
    output.result(
        "inspect", model={"vision": vision.provenance()}, classes=[c.as_json() for c in vision.labels.classes]
    )


def vision_facts(vision: VisionEncoder) -> list[tuple[str, str]]:
    """A classifier in names and values."""
    from headword.names import duplicate_names

    head, settings = vision.head, vision.source.transform_settings
    twice = duplicate_names(vision.labels.classes)
    shown = ", ".join(f"{name} ×{n}" for name, n in list(twice.items())[:5])
    height, width = vision.source.input_size
    return [
        ("classifier", vision.name),
        ("weights' licence", vision.source.licence or "not stated by the source"),
        ("head", f"{' + '.join(head.modules)}: {head.n_classes:,} classes × {head.dim:,} features"),
        ("self-check", f"features @ W.T + b differs from the logits by {head.error:.1e} of their scale"),
        ("class names", vision.labels.origin),
        (
            "duplicate names",
            f"{len(twice)} names, kept apart: {shown}{', …' if len(twice) > 5 else ''}" if twice else "none",
        ),
        (
            "input",
            f"{height}×{width} px, {settings.get('interpolation', '')} ({settings['library']}'s own "
            f"transform)",
        ),
    ]


def model_facts(model: DualEncoder) -> list[tuple[str, str]]:
    """A dual encoder in names and values."""
    sources = ", ".join(f"{n:,} from {source}" for source, n in model.pairs.sources.items())
    settings = ", ".join(f"{name}={value}" for name, value in model.aligner.settings.items())
    return [
        *vision_facts(model.vision),
        ("text encoder", f"{model.text.name} ({model.text.dim} wide)"),
        ("text licence", model.text.source.licence or "not stated by the source"),
        ("pairs", f"{len(model.pairs):,} ({sources})"),
        ("template", " | ".join(model.template)),
        ("aligner", f"{model.aligner.name} ({settings})"),
        ("image centre", str(model.centre)),
        ("score scale", f"{model.scores.scale:.1f}, fitted on {model.scores.fitted_on:,} held-out classes"),
    ]


def _show_classes(output: Output, vision: VisionEncoder, n: int) -> None:
    classes = vision.labels.classes
    rows = [(str(i), c.name, ", ".join(c.synonyms), c.definition or "") for i, c in enumerate(classes[:n])]
    title = f"Classes ({min(n, len(classes)):,} of {len(classes):,})"
    output.table(title, ("row", "name", "synonyms", "definition"), rows)
