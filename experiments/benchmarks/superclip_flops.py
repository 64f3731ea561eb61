"""FLOPs of CLIP and of SuperCLIP's token head, for each model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from headword.errors import HeadwordError
from headword.training.superclip import SuperCLIP

MODELS = [
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-16",
    "ViT-L-14",
    "ViT-H-14",
    "RN50",
    "ViT-B-16-SigLIP",
    "convnext_base",
]


def run(models: list[str] = MODELS) -> dict[str, Any]:
    """Count each model's."""
    logging.disable(logging.WARNING)  # open_clip says of each model that it has no pretrained weights
    metrics = {}
    for name in models:
        flops = count_flops(name)
        metrics[name] = {
            "image_gflops": round(flops.image.total / 1e9, 3),
            "text_gflops": round(flops.text.total / 1e9, 3),
            "head_gflops": round(flops.head.total / 1e9, 4),
            "overhead_percent": {k: round(v, 4) for k, v in flops.overhead().items()},
        }
    logging.disable(logging.NOTSET)
    counting = "forward, one image and one caption, multiplication and addition are two"
    return {"protocol": {"counting": counting}, "metrics": metrics}


class Flops(NamedTuple):
    """Floating-point operations of one forward pass, a multiplication and an addition being two.

    Norms, activations and softmax are left out, as everywhere. A training step costs three times as much in
    each part, so ratios are the same.
    """

    linear: int
    """Linear layers and projections."""
    attention: int
    """Products of queries with keys and of weights with values."""
    convolution: int
    """Convolutions, a ViT's patch embedding among them."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class SuperCLIPFlops(NamedTuple):
    """One image, one caption and one image's token logits."""

    image: Flops
    text: Flops
    head: Flops

    def overhead(self) -> dict[str, float]:
        """The head's share in percent of a CLIP forward pass, under each usual way of counting the latter."""
        towers = {
            "image_and_text": self.image.total + self.text.total,
            "image_and_text_without_attention_products": sum(
                t.total - t.attention for t in (self.image, self.text)
            ),
            "image_and_text_linear_layers_only": self.image.linear + self.text.linear,
            "image_only": self.image.total,
        }
        return {name: 100 * self.head.total / flops for name, flops in towers.items()}


def count_flops(model_name: str) -> SuperCLIPFlops:
    """Count for an open_clip model, at its own image size and context length.

    Raises:
        HeadwordError: if open_clip does not know the name, or the tower has no patch tokens.
    """
    if open_clip.get_model_config(model_name) is None:
        raise HeadwordError(f"open_clip has no model {model_name!r}; see open_clip.list_models()")
    with torch.device("meta"):
        clip = open_clip.create_model(model_name, device="meta", load_weights=False)
        model = SuperCLIP(clip).train()  # in evaluation mode attention takes a path the counter cannot see
        size = model.clip.visual.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        # Two images: batch norm refuses one where a map has shrunk to a single pixel.
        images = torch.zeros(2, 3, height, width)
        texts = torch.zeros(2, model.clip.context_length, dtype=torch.long)
        token_features, linear = model(images)["token_features"], model.token_head.linear
        return SuperCLIPFlops(
            image=_count(lambda: model.clip.visual(images)),
            text=_count(lambda: model.clip.encode_text(texts)),
            head=_count(lambda: linear(token_features)),
        )


def _count(run: Callable[[], Any]) -> Flops:
    """Of one row, `run` being given two."""
    with FlopCounterMode(display=False) as counter:
        run()
    kinds = {"linear": 0, "attention": 0, "convolution": 0}
    for op, flops in counter.get_flop_counts()["Global"].items():
        name = str(op)
        kind = (
            "convolution"
            if "conv" in name
            else "attention"
            if "bmm" in name or "attention" in name
            else "linear"
        )
        kinds[kind] += flops // 2
    return Flops(**kinds)
