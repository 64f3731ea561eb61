"""The demo: recycle a head, then label and search pictures that pip itself installed.

None of the labels is a name or synonym of a class of the head. The demo marks what came out right and what
wrong, and says where the right answer came.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from headword.data.gallery import GalleryPicture, gallery
from headword.demo.report import Expected, Labelled, Match, Score, Searched, write_demo_page
from headword.files import new_folder
from headword.model import DualEncoder
from headword.recycling import Watch, recycle, unwatched

# The words a person might use for each picture; all of them together are the labels to choose from.
WORDS = {
    "astronaut": "an astronaut", "cat": "a cat", "coffee": "a cup of coffee", "rocket": "a rocket launch",
    "motorcycle": "a motorcycle", "temple": "a Chinese temple", "flower": "a flower in bloom",
    "photographer": "a photographer with a camera", "horse": "the shape of a horse", "coins": "old coins",
    "page": "a page of printed text", "galaxies": "galaxies in deep space", "retina": "the inside of an eye",
    "bricks": "a brick wall",
}  # fmt: skip

# Sentences, and the picture that each means.
QUERIES = {
    "something hot to drink in the morning": "coffee",
    "two wheels and an engine": "motorcycle",
    "lift-off into space": "rocket",
    "my pet is looking at me": "cat",
    "ancient roofs in Asia": "temple",
    "it grows in a garden": "flower",
}

LEAD = (
    "A classifier that knows a thousand classes, and no captions at all: the rows of its head were paired "
    "with the names of its classes. None of the words below is one of those names. What came out wrong is "
    "marked, too."
)

_WITH = "with what its classes are called and are; no captions"
MARKER = ".headword-demo"  # tells a demo's folder, which may be replaced, from any other
PAGE = "index.html"
MODEL = "model"


class DemoResult(NamedTuple):
    """What the demo did."""

    model: DualEncoder
    labelled: list[Labelled]
    searches: list[Searched]
    seconds: dict[str, float]
    page: Path
    saved: Path


def run_demo(
    out: Path, *, overwrite: bool = False, device: str = "auto", watch: Watch = unwatched
) -> DemoResult:
    """Recycle the embedded classifier, label and search the gallery, and write model and page into `out`.

    `watch` is as in `recycle`; `out` is refused if it holds something already.
    """
    with new_folder(out, overwrite=overwrite, marker=MARKER, known=(PAGE, MODEL)) as folder:
        (folder / MARKER).touch()
        pictures = gallery()
        model = recycle(device=device, watch=watch)
        seconds = dict(model.timings)
        start = time.perf_counter()
        with watch("images") as progress:
            features = model.image_features([picture.path for picture in pictures], progress=progress)
        seconds["embed pictures"] = time.perf_counter() - start
        start = time.perf_counter()
        model.centre_on(features)
        labelled = _label(model, features, pictures)
        searches = _search(model, features, pictures)
        seconds["label and search"] = time.perf_counter() - start
        model.save(folder / MODEL)
        facts, labels = _facts(model, len(pictures), seconds), list(WORDS.values())
        write_demo_page(
            folder / PAGE, labelled=labelled, searches=searches, facts=facts, labels=labels, lead=LEAD
        )
    return DemoResult(model, labelled, searches, seconds, out / PAGE, out / MODEL)


def _label(model: DualEncoder, features: object, pictures: list[GalleryPicture]) -> list[Labelled]:
    labels = list(WORDS.values())
    classifier, embeddings = model.classifier(labels), model.encode_image(features)
    cosines = classifier.cosines(embeddings)
    chances = classifier.probabilities(classifier.logits(embeddings))
    entries = []
    for picture, chance, cosine in zip(pictures, chances, cosines, strict=True):
        order = chance.argsort(descending=True, stable=True).tolist()
        scores = [Score(labels[i], float(chance[i]), float(cosine[i])) for i in order[:3]]
        own = WORDS[picture.name]
        expected = Expected(own, order.index(labels.index(own)) + 1, len(labels))
        entries.append(Labelled(picture.path, picture.title, scores, expected, picture.credit))
    return entries


def _search(model: DualEncoder, features: object, pictures: list[GalleryPicture]) -> list[Searched]:
    queries = {query: name for query, name in QUERIES.items() if name in {p.name for p in pictures}}
    places, cosines = model.search(features, list(queries), k=len(pictures))
    entries = []
    for (query, name), row, cosine in zip(queries.items(), places.tolist(), cosines.tolist(), strict=True):
        order = [pictures[place] for place in row]
        rank, meant = next((n, p) for n, p in enumerate(order, start=1) if p.name == name)
        hits = [Match(picture.path, picture.title, c) for picture, c in zip(order[:3], cosine, strict=False)]
        entries.append(Searched(query, hits, Expected(meant.title, rank, len(order))))
    return entries


def _facts(model: DualEncoder, n: int, seconds: dict[str, float]) -> list[tuple[str, str]]:
    head, _ = model.vision.named_head()
    assert model.pairs is not None
    return [
        ("Classifier", f"{model.vision.name}, {head.n_classes:,} classes, {head.dim:,} features"),
        ("Text encoder", f"{model.text.name}, {model.text.dim} wide"),
        ("Learnt from", f"{head.n_classes:,} rows of the head, in {len(model.pairs):,} pairs {_WITH}"),
        ("Centred on", f"these {n} pictures, unlabelled"),
        *((step.capitalize(), f"{value:.2f} s") for step, value in seconds.items()),
    ]
