"""Words for a trained model's pictures: its own text tower, its recycled token head, a linear map (LiT).

    python -m experiments token-heads --model RUN/model
    python -m experiments token-heads --model RUN/model --data flickr8k/captions.jsonl

`--model` was trained with --keep-token-head. On `shapes` the colour and the shape of pictures of one group
are named, by the word alone and by the mean of all captions that could hold it; else captions are searched
for. The linear map, ridge regression from the patch mean into the text encoder's space, has captions of the
training's own kind. "Centred" is on the pictures asked about. A SuperClass model has no trained text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from headword.data.captions import Captioned, read_captions
from headword.data.shapes import COLOURS, SHAPES, SIZES, Shapes
from headword.encoders import TextEncoder, load_text
from headword.extract import image_features
from headword.metrics import retrieval_metrics, retrieval_places
from headword.model import load
from headword.recycling import recycle

RIDGE = 1e-2  # of the linear map, times the mean variance of a feature


class Arm(NamedTuple):
    """A way from pictures and texts into one space."""

    pictures: Tensor  # `[N, D]`, unit norm
    encode: Callable[[list[str]], Tensor]  # texts → `[M, D]`


class Asked(NamedTuple):
    """Pictures with a caption each, of which a linear map is learnt or which are asked about."""

    images: list[Any]
    captions: list[list[str]]


def arms(model: Path, asked: Asked, fitted: Asked) -> Iterator[tuple[str, Arm]]:
    """All ways that the model has."""
    own = load(model, device="cpu")
    if (own.training or {}).get("config", {}).get("method") != "superclass":
        yield "own text tower", Arm(own.encode_image(asked.images), own.encode_text)
    words = recycle(str(model), head="tokens", device="cpu")
    print(f"{len(words.classes):,} words", flush=True)
    features = image_features(words.vision, asked.images)
    yield "token head", Arm(words.encode_image(features), words.encode_text)
    words.centre_on(features)
    yield "token head, centred", Arm(words.encode_image(features), words.encode_text)
    learnt_from = image_features(words.vision, fitted.images)
    yield "linear map", linear_map(load_text("embedded"), learnt_from, fitted, features)


def linear_map(text: TextEncoder, features: Tensor, fitted: Asked, asked: Tensor) -> Arm:
    """Least squares from features to the mean of each picture's captions."""
    counts = [len(captions) for captions in fitted.captions]
    every = text.encode([caption for captions in fitted.captions for caption in captions])
    embedded = torch.split(every, counts)
    y = torch.stack([F.normalize(one, dim=1).mean(dim=0) for one in embedded])
    centre, above = features.mean(dim=0), y.mean(dim=0)
    x = features - centre
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, x.T @ (y - above))
    pictures = F.normalize((asked - centre) @ weight, dim=1)
    return Arm(pictures, lambda texts: F.normalize(F.normalize(text.encode(texts), dim=1) - above, dim=1))


def questions(data: Shapes, rows: list[int]) -> dict[str, tuple[list[str], list[list[str]], Tensor]]:
    """By attribute: its words, for each all captions of one shape that could hold it, and the answers."""
    groups = [data.scene(row).groups[0] for row in rows]
    colours, shapes = list(COLOURS), list(SHAPES)
    of_colour = [[f"a {size} {c} {s}" for size in SIZES for s in shapes] for c in colours]
    of_shape = [[f"a {size} {c} {s}" for size in SIZES for c in colours] for s in shapes]
    return {
        "colour": (colours, of_colour, torch.tensor([colours.index(group.colour) for group in groups])),
        "shape": (shapes, of_shape, torch.tensor([shapes.index(group.shape) for group in groups])),
    }


def on_shapes(model: Path, images: int, captions: int) -> dict[str, float]:
    """Top-1 in percent, on new pictures of combinations that training showed, and on those it did not."""
    metrics: dict[str, float] = {}
    train = Shapes("train", images=captions)
    rows = range(captions)
    fitted = Asked([train.picture(row) for row in rows], [list(train.text(row)[0]) for row in rows])
    for split, name in (("val", "seen"), ("test", "held_out")):
        data = Shapes(split, images=images)
        alone = [row for row in range(len(data)) if len(data.scene(row).groups) == 1]
        asked = Asked([data.picture(row) for row in alone], [])
        for arm, (pictures, encode) in arms(model, asked, fitted):
            for attribute, (labels, prompts, answers) in questions(data, alone).items():
                means = torch.stack([encode(of).mean(dim=0) for of in prompts])
                for kind, words in (("word", encode(labels)), ("captions", F.normalize(means, dim=1))):
                    right = ((pictures @ words.T).argmax(dim=1) == answers).float().mean()
                    metrics[f"{name}/{attribute}, {kind}: {arm}"] = round(100 * float(right), 2)
    return metrics


def on_captions(model: Path, file: str, images: int, captions: int) -> dict[str, float]:
    """Recall of captions and pictures of the test split."""
    test, train = (of(read_captions(file, split=split)) for split in ("test", "train"))
    fitted, asked = (Asked(a[:n], b[:n]) for (a, b), n in ((train, captions), (test, images)))
    owner = torch.tensor([row for row, texts in enumerate(asked.captions) for _ in texts])
    texts = [caption for of_picture in asked.captions for caption in of_picture]
    metrics: dict[str, float] = {}
    for arm, (pictures, encode) in arms(model, asked, fitted):
        recall = retrieval_metrics(retrieval_places(pictures, encode(texts), owner), ks=(1, 10))
        metrics |= {f"{name}: {arm}": round(value, 2) for name, value in recall.items()}
    return metrics


def of(entries: list[Captioned]) -> Asked:
    return Asked([entry.image for entry in entries], [list(entry.captions) for entry in entries])


def run(
    model: Annotated[Path, typer.Option(help="A trained model that kept its token head.")],
    data: Annotated[str, typer.Option(help="shapes, or a caption file.")] = "shapes",
    images: Annotated[int, typer.Option(help="Pictures asked about; of shapes, those of one group.")] = 1000,
    captions: Annotated[int, typer.Option(help="Pictures that the linear map is fitted on.")] = 3000,
) -> dict[str, Any]:
    """Measure all ways on the same pictures."""
    shapes = data == "shapes"
    metrics = on_shapes(model, images, captions) if shapes else on_captions(model, data, images, captions)
    training = load(model, device="cpu").training
    protocol = {"data": data, "images": images, "captions": captions, "training": training}
    return {"file": f"token_heads_{model.resolve().parent.name}", "protocol": protocol, "metrics": metrics}
