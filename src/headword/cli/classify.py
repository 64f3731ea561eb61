"""`headword classify`: label images with any words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, expand_images, flags, quoted, taught_labels
from headword.errors import HeadwordError

AUTO, NONE, ONLINE, COLLECTION = "auto", "none", "online", "collection"
TRANSDUCTIVE = "at once; read its percentages as an order, they are surer than they are right"


@command(
    'classify model photo.jpg --labels "a sleeping dog,a birthday party"',
    "classify model holiday/ --labels-file words.txt --centre-on none",
)
def classify(
    output: Output,
    model: options.Model,
    images: Annotated[list[str], Argument(help="Images, folders of images, or globs.")],
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    template: options.Template = None,
    k: Annotated[int, Option("-k", min=1, help="How many labels to show for each image.")] = 3,
    multi_label: Annotated[bool, Option("--multi-label", help="Judge each label by itself.")] = False,
    none_of_these: options.NoneOfThese = False,
    classifier_at: options.TaughtClassifier = None,
    centre_on: Annotated[
        str,
        Option(
            metavar="FOLDER|collection|online|none|auto",
            help=f"{options.CENTRE_HELP} auto is online for a recycled model without a centre, else none.",
        ),
    ] = AUTO,
    collection: Annotated[
        str,
        Option(
            help="Label all the images at once, each by the others too: csls, inverted-softmax, sinkhorn or "
            "adapt; or off."
        ),
    ] = "off",
    prior: Annotated[
        str | None,
        Option(help="For sinkhorn, how often each label is: uniform, or a JSON file, label to share."),
    ] = None,
    batch_size: options.BatchSize = 32,
    vision: options.Vision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Label images with any words.

    They need not be classes of the head.
    """
    words, saved = taught_labels(classifier_at, labels, labels_file, template, multi_label, none_of_these)
    paths = expand_images(images)
    from headword.scoring.transductive import OFF, check_method, label_shares, read_prior

    check_method(collection, prior is not None, single_labels=not (multi_label or none_of_these))
    stated = None if prior is None else read_prior(prior)
    shares = None if stated is None else label_shares(stated, words)
    from headword.model import load
    from headword.server.memory import remembering

    # The labels' texts are embedded once, though they tell their familiarity too.
    encoder = remembering(load(model, vision=vision, device=device, dtype=None if dtype == "auto" else dtype))
    classifier = None
    if saved is not None:
        from headword.teaching import around, load_classifier

        encoder = around(encoder, saved.centre_vector, saved.centre)
        classifier = load_classifier(saved, model=encoder)
        multi_label, none_of_these = classifier.multi_label, classifier.none_of_these
    with output.progress("images") as progress:
        if centre_on == AUTO:
            as_made = encoder.centre.kind == "default" and not encoder.one_space and classifier is None
            centre_on = ONLINE if as_made and len(paths) > 1 else NONE
        running = encoder.running_centre() if centre_on == ONLINE else None
        if running is None and centre_on != NONE:
            pool = paths if centre_on == COLLECTION else centre_on
            encoder.centre_on(pool, batch_size=batch_size, progress=progress)
            classifier = classifier and classifier.around(encoder)
        skipped: dict[int, str] = {}
        embeds = encoder.encode_image(
            paths, batch_size=batch_size, centre=running, skipped=skipped, progress=progress
        )
    read = [path for place, path in enumerate(paths) if place not in skipped]
    if collection != OFF and len(read) < 2:
        raise HeadwordError(f"--collection {collection} labels images by one another; give two or more")
    classifier = classifier or encoder.classifier(
        words, templates=template or None, multi_label=multi_label, none_of_these=none_of_these
    )
    cosines = classifier.cosines(embeds).tolist()
    chances = classifier.probabilities(classifier.logits(embeds, collection=collection, prior=stated))
    orders = chances.argsort(dim=1, descending=True, stable=True).tolist()
    doubt = encoder.doubt
    depths = dict(zip(words, encoder.depths(words), strict=True))
    far = [word for word, depth in depths.items() if depth.out_of_depth]
    words = classifier.classes_.tolist()
    rows, results = [], []
    for path, order, chance, cosine in zip(read, orders, chances.tolist(), cosines, strict=True):
        ranked = [
            {"label": words[i], "probability": chance[i], "cosine": cosine[i] if i < len(cosine) else None}
            for i in order
        ]
        results.append({"image": str(path), "labels": ranked})
        rows += [
            (f"{chance[i]:6.1%}", words[i] + " *" * (words[i] in far), path.name if n == 0 else "")
            for n, i in enumerate(order[:k])
        ]
    output.table(f"Labels by {model}", ("", "label", "image"), rows, whole="image")
    if doubt:
        output.say(f"* Take all with care: {doubt}. More: headword inspect {model}")
    elif far:
        output.say(
            f"* Out of the head's depth, take with care: {', '.join(far)}. headword explain {quoted(model)} "
            "WORDS says why."
        )
    unreadable = {str(paths[place]): why for place, why in skipped.items()}
    output.unreadable(unreadable)
    notes = list(paths.notes)
    if collection != OFF:
        notes.append(f"transductive: {collection} labels the whole collection {TRANSDUCTIVE}")
    if len(words) == 1 and not multi_label:
        notes.append("one label alone always gets 100 %; give more to choose from, or --none-of-these")
    if running is not None:
        notes.append(
            "each image is centred on the mean of those up to it; --centre-on none takes it as it is"
        )
    for note in notes:
        output.say(note)
    if len(paths) > 1:
        folder = next((name for name in images if Path(name).is_dir()), "FOLDER")
        output.next_step(f"headword index {quoted(model)} {quoted(folder)} --out index{flags(vision=vision)}")
    else:
        chosen = quoted(",".join(words[: len(words) - none_of_these]))
        output.next_step(f"headword classify {quoted(model)} FOLDER --labels {chosen}{flags(vision=vision)}")
    familiarity = encoder.familiarity_fit and {
        **encoder.familiarity_fit.as_json(),
        "labels": {word: depth.familiarity for word, depth in depths.items()},
        "out_of_depth": far,
    }
    output.result(
        model=encoder.provenance(),
        protocol={
            "labels": words, "templates": list(template or encoder.templates), "multi_label": multi_label,
            "none_of_these": none_of_these, "collection": collection, "centre_on": centre_on,
            "prior": None if shares is None else dict(zip(words, shares.tolist(), strict=True)),
        },
        notes=notes,
        results=results,
        doubt=doubt,
        out_of_depth=far,
        unreadable=unreadable,
        familiarity=familiarity,
    )  # fmt: skip
