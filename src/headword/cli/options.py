"""Options that several commands have, each said once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from typer import Argument, Option

COMMON = "Common options"
"""The group in the help of those that most commands have."""

common_option = partial(Option, rich_help_panel=COMMON)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]

Model: TypeAlias = Annotated[Path, Argument(help="A saved model's folder.")]
Index: TypeAlias = Annotated[Path, Argument(help="An index's folder.")]
BatchSize: TypeAlias = Annotated[int, Option(min=1, help="Images that go through the model together.")]
ClassNames: TypeAlias = Annotated[Path | None, Option(help="Class names for a classifier that has none.")]
Head: TypeAlias = Annotated[list[str] | None, Option(help="Dotted name of the last linear layer.")]
Device: TypeAlias = Annotated[DeviceName, common_option("--device", help="Where to compute.")]
Dtype: TypeAlias = Annotated[DtypeName, common_option("--dtype", help="Precision of the vision encoder.")]
Quiet: TypeAlias = Annotated[
    bool, common_option("--quiet", "-q", help="Print nothing but errors and asked-for JSON.")
]
Json: TypeAlias = Annotated[
    str | None,
    common_option("--json", metavar="FILE|-", help="Write the result as JSON to a file, or - for stdout."),
]
Vision: TypeAlias = Annotated[
    str | None,
    common_option(
        "--vision",
        metavar="module:FILE.py:FACTORY",
        help="The model's classifier, where it is a module of your own (also module:PACKAGE.MODULE:FACTORY) "
        "or has moved.",
    ),
]
IndexModel: TypeAlias = Annotated[
    Path | None,
    common_option("--model", metavar="DIR", help="The index's model, where it is elsewhere by now."),
]
_LABELS_HELP = 'Words to choose from, "a cat,a dog"; with commas in them, use --labels-file.'
Labels: TypeAlias = Annotated[str | None, Option("--labels", metavar="WORDS", help=_LABELS_HELP)]
LabelsFile: TypeAlias = Annotated[
    Path | None, Option("--labels-file", metavar="FILE", help="Words to choose from, one a line.")
]
TEMPLATE_HELP = 'A template with "{}" for the name; give several to average them.'
Template: TypeAlias = Annotated[list[str] | None, Option("--template", help=TEMPLATE_HELP)]
NoneOfThese: TypeAlias = Annotated[bool, Option("--none-of-these", help='Let "none of these" be an answer.')]
TaughtClassifier: TypeAlias = Annotated[
    Path | None,
    Option("--classifier", metavar="DIR", help="In place of labels: what headword teach wrote, or the page."),
]

CENTRE_HELP = (
    "What images are centred on, unlabelled: a FOLDER of images; collection, the images at hand themselves; "
    "online, each on those up to it; none, the model's own centre."
)
"""Said of --centre-on in every command; each adds which of them it has besides or not."""
