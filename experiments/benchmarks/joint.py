"""Several backbones as one model: against the best single one, and a general one beside specialists.

Same classes: EfficientNet-Lite0, Lite1, Lite2 and MobileNetV2 (all ImageNet-1k), equal weights, kernel ridge;
the same names, templates and centring for the joint model and for each part. Mean per-class top-1 on the four
sets, on whose labels nothing was chosen.

Different classes: Lite0 beside MobileNetV2 of iNaturalist birds and of insects. The gate's temperature is
compared by leaving classes out: each left-out name looks for its row among the left-out rows of all heads.
Then, with the default: the four sets and Flickr8k's validation captions, which need no specialist, with and
without them; and ImageNet's 59 bird classes, one training image each, with their rows taken from the general
head's pairs, so that only the specialist has names of birds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.common import CLASSIFICATION, data_root, features_of, write
from headword.aligners import Aligner, JointKernelRidge, KernelRidge, leave_out
from headword.aligners.pairs import Pairs
from headword.data.captions import read_captions
from headword.encoders import TextEncoder, VisionEncoder, load_text, load_vision
from headword.encoders.prompts import embed_names
from headword.extract import image_features
from headword.metrics import classification_metrics
from headword.recycling import head_pairs

FOUR = ("{}", "a photo of a {}", "a picture of a {}", "an image of a {}")
GENERAL = ("embedded:lite0", "embedded:lite1", "embedded:lite2", "mobilenetv2_100_in1k")
SPECIAL = ("mobilenetv2_100_inat_bird", "mobilenetv2_100_inat_insect")
GATES = (0.02, 0.05, 0.1, 0.2, 1e6)
BIRDS = [*range(7, 25), *range(80, 101), *range(127, 147)]
"""ImageNet-1k's birds: cock to great grey owl, black grouse to black swan, white stork to albatross."""


def main() -> None:
    text = load_text("embedded")
    eyes = {name: opened(name) for name in (*GENERAL, *SPECIAL)}
    sets = {name: {part: features_of(eye, name) for part, eye in eyes.items()} for name in CLASSIFICATION}
    metrics = {
        "same_classes": same_classes(eyes, text, sets),
        "left_out_names_by_gate": {
            "lite0 + birds": gates(eyes, text, (GENERAL[0], SPECIAL[0])),
            "lite0 + birds + insects": gates(eyes, text, (GENERAL[0], *SPECIAL)),
        },
        "specialists_beside_lite0": beside(eyes, text, sets),
        "birds_without_general_names": birds(eyes, text),
    }
    protocol = {"general": GENERAL, "special": SPECIAL, "text": text.name, "templates": FOUR}
    write("joint", {"metrics": metrics, "protocol": protocol, "seed": 0})


def opened(name: str) -> VisionEncoder:
    """A classifier, embedded or of the data folder's weights."""
    where = name if ":" in name else f"local-dir:{data_root().parent / 'weights' / name}"
    return load_vision(where, dtype="float32")


def joint_pairs(pairs: Sequence[Pairs], *, shared: bool) -> Pairs:
    """Parts' pairs as those of a joint head: side by side where they share classes, else with zeros."""
    if shared:
        return Pairs(torch.cat([p.image for p in pairs], 1), pairs[0].text, pairs[0].names, pairs[0].source)
    whole, before, wide = None, 0, sum(p.image.shape[1] for p in pairs)
    for part in pairs:
        image = torch.zeros(len(part), wide)
        image[:, before : before + part.image.shape[1]] = part.image
        before += part.image.shape[1]
        own = Pairs(image, part.text, part.names, part.source)
        whole = own if whole is None else whole + own
    assert whole is not None
    return whole


def top1(
    aligner: Aligner,
    text: TextEncoder,
    features: Tensor,
    data: tuple[Tensor, list[str]],
    templates: Sequence[str],
) -> float:
    """Mean per-class top-1 in percent."""
    labels, names = data
    scores = aligner.image(features) @ aligner.text(embed_names(text, names, templates)).T
    return float(classification_metrics(scores, labels, ks=(1,))["mean_per_class"])


def on_the_sets(
    aligner: Aligner,
    text: TextEncoder,
    sets: Mapping[str, Any],
    parts: Sequence[str],
    templates: Sequence[str],
    pool: bool,
) -> dict[str, float]:
    """Each set's top-1 and their mean, centred on the set's own images or not at all."""
    found = {}
    for name, by_part in sets.items():
        data = by_part[parts[0]][0]
        features = torch.cat([by_part[part][1] for part in parts], dim=1)
        aligner.centre_on(features) if pool else aligner._learn(centre_=torch.zeros_like(features[0]))
        found[name] = top1(aligner, text, features, (torch.tensor(data.labels), list(data.names)), templates)
    return {**found, "mean": statistics.mean(found.values())}


def same_classes(
    eyes: Mapping[str, VisionEncoder], text: TextEncoder, sets: Mapping[str, Any]
) -> dict[str, Any]:
    """The joint model and its parts, by templates and centring."""
    result = {}
    for said, templates in {"bare names": ("{}",), "four templates": FOUR}.items():
        pairs = {part: head_pairs(eyes[part], text, templates) for part in GENERAL}
        models: dict[tuple[str, ...], Aligner] = {(part,): KernelRidge().fit(pairs[part]) for part in GENERAL}
        for parts in (GENERAL, GENERAL[:3]):
            widths = tuple(eyes[part].dim for part in parts)
            together = joint_pairs([pairs[part] for part in parts], shared=True)
            models[parts] = JointKernelRidge(widths=widths).fit(together)
        for pool in (False, True):
            runs = {
                " + ".join(parts): on_the_sets(model, text, sets, parts, templates, pool)
                for parts, model in models.items()
            }
            best = max(runs[part]["mean"] for part in GENERAL)
            gains = {name: run["mean"] - best for name, run in runs.items() if " + " in name}
            centre = "centred on each set" if pool else "not centred"
            result[f"{said}, {centre}"] = {"top1": runs, "points_above_best_single": gains}
    return result


def gates(eyes: Mapping[str, VisionEncoder], text: TextEncoder, parts: Sequence[str]) -> dict[str, Any]:
    """Recall@1 and @10 in percent of left-out names for their rows, by head and on average."""
    pairs = [head_pairs(eyes[part], text) for part in parts]
    whole = joint_pairs(pairs, shared=False)
    head = torch.tensor([n for n, part in enumerate(pairs) for _ in range(len(part))])
    widths = tuple(eyes[part].dim for part in parts)
    result = {}
    for gate in GATES:
        out = leave_out(JointKernelRidge(widths=widths, gate=gate), whole, centred=True)
        rank = torch.zeros(len(whole), dtype=torch.long)
        for rows, image, spoken in zip(out.rows, out.image, out.text, strict=True):
            scores = spoken @ image.T
            rank[rows] = (scores >= scores.diagonal()[:, None]).sum(dim=1)
        recall = {
            part: {f"r{k}": 100 * float((rank[head == n] <= k).float().mean()) for k in (1, 10)}
            for n, part in enumerate(parts)
        }
        mean = {k: statistics.mean(one[k] for one in recall.values()) for k in ("r1", "r10")}
        result["no gate" if gate == GATES[-1] else str(gate)] = {**recall, "mean": mean}
    return result


def beside(eyes: Mapping[str, VisionEncoder], text: TextEncoder, sets: Mapping[str, Any]) -> dict[str, Any]:
    """What the specialists cost or bring where they are not needed."""
    captions = read_captions(data_root() / "flickr8k" / "captions.jsonl", split="val")
    said = text.encode([caption for entry in captions for caption in entry.captions])
    own = torch.arange(len(captions)).repeat_interleave(torch.tensor([len(e.captions) for e in captions]))
    result = {}
    for parts in ((GENERAL[0],), (GENERAL[0], *SPECIAL)):
        pairs = joint_pairs([head_pairs(eyes[part], text, FOUR) for part in parts], shared=False)
        model = JointKernelRidge(widths=tuple(eyes[part].dim for part in parts)).fit(pairs)
        tested = on_the_sets(model, text, sets, parts, FOUR, True)
        files = [entry.image for entry in captions]
        images = torch.cat([image_features(eyes[part], files) for part in parts], dim=1)
        model.centre_on(images)
        best = (model.text(said) @ model.image(images).T).topk(10, dim=1).indices
        recall = 100 * float((best == own[:, None]).any(dim=1).float().mean())
        result[" + ".join(parts)] = {"top1": tested, "flickr8k_val_t2i_r10": recall}
    return result


def birds(eyes: Mapping[str, VisionEncoder], text: TextEncoder) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 in percent over ImageNet's birds, centred on the whole sample."""
    files = sorted((data_root() / "imagenet_sample").rglob("*.jpg"))
    general, special = GENERAL[0], SPECIAL[0]
    features = {part: image_features(eyes[part], files) for part in (general, special)}
    names = [eyes[general].named_head()[1].classes[n].name for n in BIRDS]
    rest = [n for n in range(1000) if n not in BIRDS]
    pairs = {
        general: head_pairs(eyes[general], text, FOUR)[rest],
        special: head_pairs(eyes[special], text, FOUR),
    }
    result = {}
    for parts in ((general,), (special,), (general, special)):
        model = JointKernelRidge(widths=tuple(eyes[part].dim for part in parts))
        model.fit(joint_pairs([pairs[part] for part in parts], shared=False))
        images = torch.cat([features[part] for part in parts], dim=1)
        model.centre_on(images)
        scores = model.image(images[BIRDS]) @ model.text(embed_names(text, names, FOUR)).T
        result[" + ".join(parts)] = dict(classification_metrics(scores, torch.arange(len(BIRDS)), ks=(1, 5)))
    return result


if __name__ == "__main__":
    main()
