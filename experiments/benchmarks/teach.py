"""Words as prior, pictures as evidence: accuracy by pictures a label, and by clicks, beside other ways.

The words are the default's, on EfficientNet-Lite0 and all-MiniLM-L6-v2; each set is centred on its own mean,
without labels. Shots are drawn five times; the pictures tested on are those that no shot of the draw is. Of
coco128 the crops of its boxes are labelled, of labels that have enough of them.

By clicks: half of a set is asked about, the other half is tested on, and the classifier learns after every
few answers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from experiments import harness
from experiments.bench import CLASSIFICATION, Bench, Labelled, data_root
from experiments.figures import Figure, Lines, Series
from experiments.figures import draw as draw_figure
from experiments.fits import fit_once
from experiments.likeness import drawn_places
from experiments.records import Records
from experiments.words import Texts, stages
from headword.aligners import Aligner, KernelRidge, Linear
from headword.aligners.pairs import Pairs
from headword.extract import image_features
from headword.metrics import classification_metrics
from headword.recycling import class_mean_pairs
from headword.scoring.logistic import regress, span
from headword.scoring.suggestions import METHODS, suggest
from headword.scoring.taught import TaughtWeights, teach
from headword.scoring.transductive import adapt

SHOTS = (0, 1, 2, 4, 8, 16)
COCO = "coco128"
SETS = (*CLASSIFICATION, COCO)
WORDS, OURS, RIDGE, LOGISTIC = "words alone", "headword teach", "words + class means", "logistic regression"
JOINT, SEQUENTIAL = "the paper's joint pairs", "the paper's sequential pairs"
FIXED = (5, 10, 20, 40)
SMALLEST = 32  # pixels of a crop's side, as cifar10's
FEWEST = 9  # crops of a label: 8 shots, and one to test on
CLICKED = ("cifar10", "caltech101", "tf_flowers", COCO)
MOST_CLICKS = 12  # a label, or all of the half that is asked about
SHOWN = (OURS, RIDGE, "class means", LOGISTIC, "Tip-Adapter's cache", JOINT, WORDS)


def crops(bench: Bench) -> Labelled:
    """The crops of coco128's boxes, of labels that have enough."""
    root = bench.root / "data" / COCO
    pictures, labels = [], []
    for file, boxes in json.loads((root / "boxes.json").read_text()).items():
        with Image.open(root / "images" / file) as image:
            picture = image.convert("RGB")
        for entry in boxes:
            left, top, right, bottom = entry["box"]
            box = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
            if min(box[2] - box[0], box[3] - box[1]) >= SMALLEST:
                pictures.append(picture.crop(tuple(map(round, box))))
                labels.append(entry["label"])
    names = sorted({label for label in labels if labels.count(label) >= FEWEST})
    kept = [place for place, label in enumerate(labels) if label in names]
    features = image_features(bench.vision(), [pictures[place] for place in kept])
    places = torch.tensor([names.index(labels[place]) for place in kept])
    return Labelled(name=COCO, features=features, labels=places, names=tuple(names))


class Few:
    """A set, a draw of its shots, and the ways to learn from them."""

    def __init__(
        self, bench: Bench, data: Labelled, rows: Pairs, aligner: Aligner, text: Tensor, draw: int
    ) -> None:
        self.data, self.bench, self.rows, self.text = data, bench, rows, text
        self.words, self.images = aligner.text(text), aligner.image(data.features)
        fewest = int(torch.bincount(data.labels).min())
        self.shots = [n for n in SHOTS if n < fewest]
        self.drawn = drawn_places(data.labels, self.shots[-1], bench.generator(SETS.index(data.name), draw))
        self.tested = torch.ones(len(data.labels), dtype=torch.bool)
        self.tested[self.drawn.flatten()] = False

    def accuracy(self, scores: Tensor) -> float:
        """Mean per-class accuracy of scores `[T, L]` of the tested images, in percent."""
        return classification_metrics(scores, self.data.labels[self.tested], (1,))["mean_per_class"]

    def ways(self, n: int, first: Linear | None, *, own: bool) -> Iterator[tuple[str, Tensor]]:
        """Scores of the tested images by n shots a label, each way; `own`, headword's and fixed scales."""
        places, x = self.drawn[:, :n].flatten(), self.images[self.tested]
        shots, y = self.images[places], self.data.labels[places]
        yield WORDS, x @ self.words.T
        if n == 0:
            yield from ((way, x @ self.words.T) for way in ((OURS,) if own else (OURS, RIDGE, JOINT)))
            return
        taught = taught_by(shots, y, self.words)
        yield OURS, x @ taught.weight.T
        for scale in FIXED:
            yield f"fixed scale {scale}", x @ fixed(shots, y, self.words, scale).T
        concentration = float(taught.weight.norm(dim=1).mean())
        yield f"{OURS} + unlabelled", x @ adapt(x, F.normalize(taught.weight, dim=1), concentration).T
        if own:
            return
        sums = torch.zeros_like(self.words).index_add_(0, y, shots)
        yield RIDGE, x @ F.normalize(self.words + sums, dim=1).T
        yield "class means", x @ F.normalize(sums, dim=1).T
        yield LOGISTIC, logistic(shots, y, x)
        yield "linear probe, random start", random_start(shots, y, x, self.bench.seed)
        member = F.one_hot(y, len(self.words)).float()
        cache = (5.5 * (x @ shots.T - 1)).exp() @ member  # Zhang et al., ECCV 2022: α 1, β 5.5
        yield "Tip-Adapter's cache", 20 * (x @ self.words.T) + cache
        means = class_mean_pairs(self.data.features[places], y, self.data.names, self.text)
        joint = KernelRidge().fit(self.rows + means).centred_on(self.data.features)
        yield JOINT, joint.image(self.data.features[self.tested]) @ joint.text(self.text).T
        if first is not None:
            second = type(first).restore(first.settings, first.tensors)
            second.continue_fit(means, epochs=25, lr=5e-4)
            second.centre_on(self.data.features)
            yield SEQUENTIAL, second.image(self.data.features[self.tested]) @ second.text(self.text).T


def taught_by(images: Tensor, y: Tensor, words: Tensor) -> TaughtWeights:
    """As `Classifier.fit` on embeddings `[n, D]` of one label each."""
    judged = F.one_hot(y, len(words)).to(torch.int8)
    return teach(images, judged, words, torch.zeros(len(words)), independent=False, scale=1.0, assessed=False)


def fixed(images: Tensor, y: Tensor, words: Tensor, scale: float) -> Tensor:
    """The regression around words of one scale for every set, λ 0.03: `[L, D]`."""
    coordinates, axes = span(images)
    judged = F.one_hot(y, len(words)).to(torch.int8)
    return scale * words + regress(scale * (images @ words.T), coordinates, judged, 0.03)[0] @ axes.T


def logistic(shots: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """scikit-learn's, C 10."""
    fitted = LogisticRegression(C=10, max_iter=200).fit(shots.numpy(), y.numpy())
    return torch.from_numpy(fitted.predict_log_proba(x.numpy())).float()


def random_start(shots: Tensor, y: Tensor, x: Tensor, seed: int) -> Tensor:
    """A linear layer by Adam from a random start, 300 steps."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(shots.shape[1], int(y.max()) + 1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        F.cross_entropy(layer(shots), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    scores: Tensor = layer(x).detach()
    return scores


def clicks(bench: Bench, few: Few, draw: int, method: str) -> Iterator[tuple[int, float]]:
    """(Answers, accuracy on the other half), as pictures are asked about by one method."""
    order = torch.randperm(len(few.images), generator=bench.generator(99, draw))
    pool, tests = order[: len(order) // 2], order[len(order) // 2 :]
    X, y, L = few.images[pool], few.data.labels[pool], len(few.words)
    asked: list[int] = []
    weight, batch = 20 * few.words, L
    while len(asked) < min(MOST_CLICKS * L, len(pool)):
        known = torch.tensor(asked, dtype=torch.long)
        asked += suggest(X, (X @ weight.T).softmax(dim=1), X[known], batch, method=method, seed=draw).tolist()
        known = torch.tensor(asked)
        weight = taught_by(X[known], y[known], few.words).weight
        scores = few.images[tests] @ weight.T
        found = classification_metrics(scores, few.data.labels[tests], (1,))["mean_per_class"]
        yield len(asked), found


def run(
    sequential: Annotated[
        bool, typer.Option(help="The paper's second stage; its first takes minutes.")
    ] = False,
    own: Annotated[
        bool, typer.Option(help="Headword's way alone, after a change of it; the others are kept.")
    ] = False,
    clicked: Annotated[bool, typer.Option("--clicks/--no-clicks", help="Measure by clicks too.")] = True,
    draws: int = 5,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Of the five; all when not given. Others are kept.")
    ] = None,
    classes: int | None = None,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Measure, and draw results/teach.png; what is done is written after each set."""
    bench = Bench(root=data_root(), draws=draws, classes=classes, epochs=epochs)
    texts = Texts(bench)
    rows = texts.pairs(bench.head(), stages()[-1])
    mapping = KernelRidge().fit(rows)
    first = fit_once(Linear(epochs=epochs), bench.head().pairs)[0] if sequential else None
    file = harness.RESULTS / "teach.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    by_shots, by_clicks = result.get("by_shots", {}), result.get("by_clicks", {})
    for name in sets or SETS:
        records, asked = Records(), Records()
        data = crops(bench) if name == COCO else bench.labelled(name)
        text, aligner = texts.labels(data.names, stages()[-1]), mapping.centred_on(data.features)
        for draw in range(draws):
            few = Few(bench, data, rows, aligner, text, draw)
            for n in few.shots:
                for way, scores in few.ways(n, first, own=own):
                    records.add(way, name, **{str(n): few.accuracy(scores)})
            if clicked and name in CLICKED:
                for method in METHODS:
                    for count, found in clicks(bench, few, draw, method):
                        asked.add(method, name, **{str(count): found})
            print(name, draw, flush=True)
        by_shots[name] = (by_shots.get(name, {}) if own else {}) | cells(records, name)
        by_clicks |= {name: cells(asked, name)} if clicked and name in CLICKED else {}
        result = {
            "by_shots": {one: by_shots[one] for one in SETS if one in by_shots} | {"mean": means(by_shots)},
            "by_clicks": by_clicks,
            "saved_clicks": {one: saved_clicks(table) for one, table in by_clicks.items()},
            "provenance": bench.provenance(),
            "seed": bench.seed,
            "draws": draws,
        }
        harness.write("teach", result)
        (harness.RESULTS / "teach.png").write_bytes(chart(result["by_shots"]["mean"]))
    return result


def means(by_shots: dict[str, Any]) -> dict[str, Any]:
    """Over the four sets, draw by draw, of the ways and numbers that all of them have."""
    four = [by_shots[name] for name in CLASSIFICATION if name in by_shots]
    table: dict[str, Any] = {}
    for way in four[0] if len(four) == len(CLASSIFICATION) else ():
        for n in four[0][way]:
            draws = [one[way][n]["draws"] for one in four if n in one.get(way, {})]
            if len(draws) == len(four):
                table.setdefault(way, {})[n] = cell(
                    [statistics.fmean(each) for each in zip(*draws, strict=True)]
                )
    return table


def chart(table: dict[str, Any]) -> bytes:
    """The means, a line a way."""
    series = [
        Series(way, [float(n) for n in table[way]], [cell["mean"] for cell in table[way].values()])
        for way in SHOWN
        if way in table
    ]
    lines = Lines(x_label="pictures a label", y_label="right, %, mean of four sets", series=series)
    return draw_figure(Figure(name="teach", caption="", charts=[lines]), "png")


def cells(records: Records, name: str) -> dict[str, Any]:
    """A set's figures by way and number."""
    table: dict[str, Any] = {}
    for one in records:
        table.setdefault(one.arm, {})[one.metric] = cell(records.draws(one.arm, name, one.metric))
    return table


def cell(draws: Sequence[float]) -> dict[str, Any]:
    """Mean and deviation of draws."""
    spread = round(statistics.stdev(draws), 2) if len(draws) > 1 else None
    return {"mean": round(statistics.fmean(draws), 2), "sd": spread, "draws": [round(x, 2) for x in draws]}


def saved_clicks(table: dict[str, Any]) -> dict[str, int | None]:
    """By how much fewer answers a method reaches what any pictures reach with 8 of 12 a label, in percent."""
    counts = [int(n) for n in table["random"]]
    goal = max(n for n in counts if n <= counts[-1] * 8 / MOST_CLICKS)
    needed, saved = table["random"][str(goal)]["mean"], {}
    for method, found in table.items():
        reached = [n for n in counts if found[str(n)]["mean"] >= needed]
        saved[method] = round(100 * (1 - reached[0] / goal)) if reached else None
    return saved
