"""`headword tag`: zero-shot labels for all images of an index."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted, read_labels
from headword.errors import HeadwordError


@command(
    'tag index --labels "a cat,a dog,a street at night"', "tag index --labels-file words.txt --none-of-these"
)
def tag(
    output: Output,
    index: options.Index,
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    classifier: options.TaughtClassifier = None,
    template: options.Template = None,
    none_of_these: Annotated[
        bool, Option("--none-of-these", help="Leave images without a tag that no label fits.")
    ] = False,
    model: options.IndexModel = None,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Give every image of an index the label that fits it best.

    A search may then ask for one: --where "tag = 'a cat'".
    """
    words = read_labels(labels, labels_file, classifier)
    if classifier is not None and (template or none_of_these):
        raise HeadwordError(f"how labels are judged is settled in {classifier}; leave these options out")
    from headword.search import Index

    opened = Index.open(index, model=model, vision=vision, device=device)
    chosen: Any = words
    if classifier is not None:
        from headword.teaching import load_classifier

        chosen = load_classifier(classifier, model=opened.model)
        chosen = opened.lesson(chosen).classifier  # around the index's own centre
    with output.progress("images") as progress:
        counts = opened.tag(chosen, templates=template, none_of_these=none_of_these, progress=progress)
    untagged = len(opened) - sum(counts.values())
    rows = [
        (label, f"{counts.get(label, 0):,}") for label in [*counts, *(w for w in words if w not in counts)]
    ]
    output.table(
        f"Tags of {index}", ("tag", "images"), rows + ([("none", f"{untagged:,}")] if untagged else [])
    )
    about, doubt = opened.about(), opened.model.doubt
    if doubt:
        output.say(f"Take these with care: {doubt}.")
    if untagged:
        output.say('Those with none are found by --where "tag is null".')
    label = max(counts, key=counts.__getitem__, default=words[0]).replace("'", "''")
    where = quoted(f"tag = '{label}'")
    output.next_step(f"headword search {quoted(index)} --where {where}{flags(model=model, vision=vision)}")
    output.result(
        model=about["model"]["provenance"],
        protocol={"index": str(index), "labels": words, "none_of_these": none_of_these,
                  "templates": about["tags"]["template"]},
        counts=counts,
        doubt=doubt,
        untagged=untagged,
    )  # fmt: skip
