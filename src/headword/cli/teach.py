"""`headword teach`: words as a start, pictures as evidence, a classifier to take away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted, read_labels
from headword.errors import HeadwordError

AUTO, NONE, EXAMPLES = "auto", "none", "examples"
_FEW = 10  # examples from which their own mean is a better centre than the model's


@command(
    'teach model --labels "a cat,a dog" --examples shown/ --out pets',
    "teach pets --examples more/",
)
def teach(
    output: Output,
    model: Annotated[
        Path, Argument(help="A saved model's folder; or one that this command wrote, which goes on.")
    ],
    examples: Annotated[
        str | None,
        Option(metavar="FOLDER|FILE", help="Pictures by label: a folder of class folders, or a CSV of them."),
    ] = None,
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    template: options.Template = None,
    none_of_these: options.NoneOfThese = False,
    forget: Annotated[
        list[str] | None, Option(help="An example to unlearn, by its path; may be repeated.")
    ] = None,
    centre_on: Annotated[
        str,
        Option(
            metavar="FOLDER|none|…",
            help="What pictures are centred on, unlabelled: a FOLDER like those to be labelled, best; the "
            "examples; none, the model's own centre. auto is examples, of ten or more, for a recycled model "
            "without a centre.",
        ),
    ] = AUTO,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Gets the classifier; DIR itself when it goes on.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a classifier at --out.")] = False,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Teach a classifier by words and a few pictures of each label.

    The pictures are not kept, only what the model sees in them.
    """
    from headword.classifier.folder import CONFIG, read_classifier
    from headword.data.labelled import open_images
    from headword.files import check_new_folder

    goes_on = (model / CONFIG).is_file()
    if not goes_on and (out is None or examples is None):
        raise HeadwordError("say what to teach by and where to put it: --examples FOLDER --out DIR")
    if goes_on and (template or none_of_these or centre_on != AUTO):
        raise HeadwordError(f"templates, none of these and the centre are settled in {model}; leave them out")
    if goes_on and not (examples or forget or labels or labels_file):
        raise HeadwordError("nothing to do: give --examples, --labels to add, or examples to --forget")
    target = model if out is None else out
    check_new_folder(target, overwrite=overwrite or out is None, marker=CONFIG)
    shown = None if examples is None else open_images(examples, default=("train",), fewest=1)
    words = None if labels is None and labels_file is None else read_labels(labels, labels_file)
    from headword.extract import extract
    from headword.model import load
    from headword.scoring.examples import judgements
    from headword.teaching import load_classifier, model_folder

    where = model
    if goes_on:
        saved = read_classifier(model)
        where = model_folder(saved)
        encoder = load(where, vision=vision, device=device)
        classifier = load_classifier(saved, model=encoder)
        new = [word for word in words or () if word not in classifier.classes_]
        if new:
            classifier.add_labels(new)
        if forget:
            classifier.forget(forget)
    else:
        encoder = load(model, vision=vision, device=device)
        names = words or (list(shown.names) if shown else [])
        classifier = encoder.classifier(names, templates=template or None, none_of_these=none_of_these)
        if centre_on not in (AUTO, EXAMPLES, NONE):
            with output.progress("images") as progress:
                encoder.centre_on(centre_on, progress=progress)
    centred = not goes_on and (
        centre_on == EXAMPLES
        or (centre_on == AUTO and encoder.centre.kind == "default" and not encoder.one_space)
    )
    unreadable: dict[str, str] = {}
    if shown is not None:
        judgements(sorted(set(shown.names)), classifier.classes_.tolist(), several=False)  # before long work
        with output.progress("images") as progress:
            read = extract(encoder.vision, shown.images, progress=progress)
        if centred and len(read.features) >= (2 if centre_on == EXAMPLES else _FEW):
            encoder.centre_on(read.features)
        classifier.partial_fit(
            read.features,
            [shown.names[shown.labels[place]] for place in read.kept],
            names=[shown.images[place].name for place in read.kept],
        )
        unreadable = {shown.images[place].name: why for place, why in read.errors.items()}
    classifier.save(target, model=where, overwrite=overwrite or out is None)
    counts = dict(zip(classifier.classes_.tolist(), classifier.examples.counts, strict=True))
    output.table(f"Examples of {target}", ("label", "examples"), [(k, f"{n:,}") for k, n in counts.items()])
    if classifier.unseen_:
        output.say(f"No examples, so known by words alone: {', '.join(classifier.unseen_)}")
    if (accuracy := classifier.accuracy_) is not None:
        output.say(f"Of the examples {accuracy:.0%} are labelled right by the others; that is an estimate.")
    output.unreadable(unreadable)
    output.next_step(
        f"headword classify {quoted(where)} FOLDER --classifier {quoted(target)}{flags(vision=vision)}"
    )
    output.result(
        model=classifier.model.provenance(),
        protocol={
            "labels": list(classifier.labels),
            "none_of_these": classifier.none_of_these,
            "examples": examples,
            "forgotten": forget or [],
        },
        examples=counts,
        accuracy=accuracy,
        unseen=classifier.unseen_,
        unreadable=unreadable,
    )
