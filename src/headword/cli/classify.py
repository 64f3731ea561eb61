"""`headword classify`: label images with any words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headword.cli.app import app
from headword.cli.common import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    Output,
    QuietOption,
    TemplateOption,
    expand_images,
)
from headword.errors import HeadwordError

AUTO, NONE, ONLINE = "auto", "none", "online"


@app.command()
def classify(
    model: Annotated[Path, typer.Argument(help="A saved model's folder.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders of images, or globs.")],
    labels: Annotated[
        str | None,
        typer.Option(help='Words to choose from, "a cat,a dog"; with commas in them, use --labels-file.'),
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Words to choose from, one a line.")] = None,
    template: TemplateOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show for each image.")] = 3,
    multi_label: Annotated[bool, typer.Option(help="Judge each label by itself.")] = False,
    none_of_these: Annotated[bool, typer.Option(help='Let "none of these" be an answer.')] = False,
    centre_on: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|online|none|auto",
            help="A folder of unlabelled images to centre on, for this run only; online centres each image "
            "on those up to it; none takes the model's own centre. auto is online where the model was not "
            "centred.",
        ),
    ] = AUTO,
    collection: Annotated[
        str,
        typer.Option(
            help="Label all the images at once, each by the others too: csls, inverted-softmax, sinkhorn or "
            "adapt; or off."
        ),
    ] = "off",
    prior: Annotated[
        str | None,
        typer.Option(help="For sinkhorn, how often each label is: uniform, or a JSON file, label to share."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model together.")] = 32,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    quiet: QuietOption = False,
    json_to: JsonOption = None,
) -> None:
    """Label images with any words, which need not be classes of the head."""
    output = Output(quiet, json_to)
    words = read_labels(labels, labels_file)
    paths = expand_images(images)
    from headword.encoders.prompts import check_labels

    check_labels(words)
    from headword.collection import OFF, check_method, collective_scores, label_shares
    from headword.data.priors import read_prior

    check_method(collection, prior is not None, single_labels=not (multi_label or none_of_these))
    shares = None if prior is None else label_shares(read_prior(prior), words)
    from headword.saved_model import load
    from headword.scoring import NONE_OF_THESE

    encoder = load(model, device=device.value, dtype=None if dtype is Dtype.auto else dtype.value)
    with output.progress("images") as progress:
        if centre_on == AUTO:
            centre_on = ONLINE if encoder.centre.kind == "default" and len(paths) > 1 else NONE
        running = encoder.running_centre() if centre_on == ONLINE else None
        if centre_on not in (NONE, ONLINE):
            encoder.centre_on(centre_on, batch_size=batch_size, progress=progress)
        skipped: dict[int, str] = {}
        embeds = encoder.encode_image(
            paths, batch_size=batch_size, centre=running, skipped=skipped, progress=progress
        )
    read = [path for place, path in enumerate(paths) if place not in skipped]
    templates = template or encoder.template
    spoken = encoder.encode_text(words, template=templates)
    cosines = embeds @ spoken.T
    fit, covered, far = encoder.coverage_fit, dict[str, float](), list[str]()
    if fit is not None:
        covered = dict(zip(words, encoder.coverage(words, template=templates).tolist(), strict=True))
        far = [word for word in words if covered[word] < fit.low]
    scores = collective_scores(embeds, spoken, method=collection, scale=encoder.scores.scale, shares=shares)
    chances = encoder.scores.probabilities(scores, multi_label=multi_label, none_of_these=none_of_these)
    if none_of_these:
        words = [*words, NONE_OF_THESE]
    orders = chances.argsort(dim=1, descending=True, stable=True).tolist()
    judged = zip(read, orders, chances.tolist(), cosines.tolist(), strict=True)
    rows, results = [], []
    for path, order, said, cosine in judged:
        ranked = [
            {"label": words[i], "probability": said[i], "cosine": cosine[i] if i < len(cosine) else None}
            for i in order
        ]
        results.append({"image": str(path), "labels": ranked})
        rows += [
            (path.name if n == 0 else "", words[i] + " *" * (words[i] in far), f"{said[i]:6.1%}")
            for n, i in enumerate(order[:top])
        ]
    output.table(f"Labels by {model}", ("image", "label", "probability"), rows)
    if far:
        output.say(f"* Out of the head's depth, take with care: {', '.join(far)}. More: headword explain")
    unreadable = {str(paths[place]): why for place, why in skipped.items()}
    output.unreadable(unreadable)
    notes = list(paths.notes)
    if collection != OFF:
        notes.append(f"transductive: {collection} labels the whole collection at once")
    if running is not None:
        notes.append(
            "each image is centred on the mean of those up to it; --centre-on none takes it as it is"
        )
    for note in notes:
        output.say(note)
    output.result(
        "classify",
        model=encoder.provenance(),
        protocol={
            "labels": words,
            "templates": list(templates),
            "multi_label": multi_label,
            "none_of_these": none_of_these,
            "collection": collection,
            "prior": None if shares is None else dict(zip(words, shares.tolist(), strict=True)),
            "centre_on": centre_on,
        },
        notes=notes,
        results=results,
        unreadable=unreadable,
        coverage=None if fit is None else {**fit.as_json(), "labels": covered, "out_of_depth": far},
    )


def read_labels(labels: str | None, labels_file: Path | None) -> list[str]:
    """The words of `--labels`, parted by commas, or of `--labels-file`, a line each.

    Raises:
        HeadwordError: if both or neither are given, or one is empty.
    """
    if (labels is None) == (labels_file is None):
        raise HeadwordError('give the words to choose from with --labels "a cat,a dog" or --labels-file FILE')
    if labels is not None:
        return [label.strip() for label in labels.split(",")] if labels.strip() else []
    from headword.files import read_text

    assert labels_file is not None
    return [line.strip() for line in read_text(labels_file).split("\n") if line.strip()]
