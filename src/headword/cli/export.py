"""`headword export`: a model and its labels as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, quoted, taught_labels
from headword.errors import HeadwordError

if TYPE_CHECKING:
    from headword.classifier.folder import SavedClassifier

IMMICH = "immich"


@command(
    'export model --labels "a cat,a dog" --to onnx --out pets.onnx',
    "export model --classifier pets --to onnx --out pets.onnx",
)
def export(
    output: Output,
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; for immich a new folder.")],
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    classifier_at: options.TaughtClassifier = None,
    template: options.Template = None,
    to: Annotated[
        Literal["onnx", "openvino", "head", "immich"],
        typer.Option(
            help="onnx: one file, pictures in, probabilities out; openvino: the same as IR; head: weights "
            "for the classifier's own last layer; immich: both encoders, as its search reads them."
        ),
    ] = "onnx",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Judge each label by itself.")] = False,
    none_of_these: Annotated[
        bool, typer.Option("--none-of-these", help='Let "none of these" be an answer.')
    ] = False,
    centre_on: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Centre on a folder's images first; else as the model is."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Eight bits, smaller and faster (onnx).")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Pictures like those to come, for --int8; for head, to compare."),
    ] = None,
    with_text: Annotated[
        bool,
        typer.Option(
            "--with-text", help="Also the text side, FILE.text.onnx and FILE.tokenizer.json (onnx)."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
    vision: options.Vision = None,
) -> None:
    """Write a model and its labels as a file that needs no headword.

    It is compared with headword before it is put in place.
    """
    immich = to == IMMICH
    of_labels = (classifier_at, labels, labels_file, template, multi_label, none_of_these)
    if immich and any((*of_labels, int8, with_text)):
        raise HeadwordError("immich takes the model without labels, options of labels, --int8 or --with-text")
    words: list[str] = []
    saved: SavedClassifier | None = None
    if not immich:
        words, saved = taught_labels(
            classifier_at, labels, labels_file, template, multi_label, none_of_these, centre_on
        )
    from headword.classifier import Classifier
    from headword.encoders.prompts import check_templates
    from headword.export import check_form, export_immich, export_labels
    from headword.files import check_new_folder
    from headword.model import load

    form: dict[str, Any] = {
        "to": to,
        "int8": int8,
        "calibration": calibration,
        "with_text": with_text,
        "overwrite": overwrite,
    }
    if immich:
        check_new_folder(out, overwrite=overwrite)
    else:
        check_form(out, **form)

    loaded = load(model, vision=vision, device="cpu", dtype="float32")
    if centre_on is not None:
        with output.progress("images") as progress:
            loaded.centre_on(centre_on, progress=progress)
    if immich:
        exported = export_immich(loaded, out, overwrite=overwrite)
    else:
        if saved is not None:
            from headword.teaching import load_classifier

            classifier = load_classifier(saved, model=loaded)
        else:
            classifier = Classifier(  # whose labels are encoded when all else is known to be in order
                loaded,
                words,
                templates=check_templates(template or loaded.templates),
                multi_label=multi_label,
                none_of_these=none_of_these,
            )
        exported = export_labels(classifier, out, **form)
    shown = {
        "megabytes": ("size", "{:.1f} MB"),
        "difference": ("largest difference from headword", "{:.1e}"),
        "speedup": ("speed over float32", "{:.1f} times"),
        "agreement": ("same first label as float32", "{:.1%}"),
    }
    facts = [
        (what, form.format(exported.metrics[name]))
        for name, (what, form) in shown.items()
        if name in exported.metrics
    ]
    output.facts(f"Exported to {', '.join(map(str, exported.files))}", facts)
    output.next_step(f"docs/export.md shows how {quoted(exported.files[0])} is used without headword")
    output.result(
        model=loaded.provenance(),
        protocol={
            "labels": words,
            "to": to,
            "int8": int8,
            "multi_label": multi_label,
            "none_of_these": none_of_these,
        },
        metrics=exported.metrics,
        files=[str(file) for file in exported.files],
    )
