"""The mean patch token of an image tower of open_clip's, taken on the way to the tower's own pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from open_clip.model import ModifiedResNet, TimmModel, VisionTransformer
from torch import Tensor, nn

from headword.errors import HeadwordError

PatchReader = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""(tower, images `[B, 3, H, W]`) → embedding `[B, D]`, not normalised, and mean patch token `[B, width]`."""


def patch_reader(visual: nn.Module) -> tuple[PatchReader, int]:
    """How to get at the patch tokens that a tower hands to its own pooling, and their width."""
    if isinstance(visual, VisionTransformer):
        width = int(visual.transformer.width)
        if visual.attn_pool is not None:
            return _read_before_attention_pool, width
        if visual.pool_type == "none":
            raise HeadwordError(
                "the image tower pools nothing (pool_type 'none'); use one that pools: 'tok' or 'avg'"
            )
        return _read_vit, width
    if isinstance(visual, ModifiedResNet):
        return _read_resnet, int(visual.attnpool.c_proj.in_features)
    if isinstance(visual, TimmModel):
        return _timm_reader(visual)
    raise HeadwordError(
        f"cannot find patch tokens in a {type(visual).__name__}; use an image tower from open_clip's factory "
        "(VisionTransformer, ModifiedResNet or a timm model)"
    )


def _read_vit(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    before = visual.output_tokens
    visual.output_tokens = True
    try:
        embedding, tokens = visual(images)  # [B, D], [B, patches kept by patch dropout, width]
    finally:
        visual.output_tokens = before
    return embedding, tokens.mean(dim=1)


def _read_before_attention_pool(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    # `output_tokens` gives the pooler's queries here (CoCa), not the patches.
    out = visual.forward_intermediates(images, indices=1, output_fmt="NLC")  # last block: [B, patches, width]
    return out["image_features"], out["image_intermediates"][0].mean(dim=1)


def _read_resnet(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = visual.forward_intermediates(images, indices=1)  # the last stage, [B, width, H/32, W/32]
    return out["image_features"], out["image_intermediates"][0].mean(dim=(2, 3))


def _read_timm(
    visual: Any, images: Tensor, *, dims: tuple[int, ...], prefix: int = 0
) -> tuple[Tensor, Tensor]:
    # What the tower's own forward does, with a look in between.
    features = visual.trunk.forward_features(images)
    patches = features[:, prefix:] if prefix else features
    return visual.head(visual.trunk.forward_head(features)), patches.mean(dim=dims)


def _timm_reader(visual: Any) -> tuple[PatchReader, int]:
    trunk = visual.trunk
    # A convolution's type is the images' type; norms and embeddings may be kept in a wider one.
    parameter = next((p for p in trunk.parameters() if p.ndim == 4), next(trunk.parameters()))
    with evaluating(trunk), torch.no_grad():
        image = torch.zeros((1, 3, *visual.image_size), dtype=parameter.dtype, device=parameter.device)
        features = trunk.forward_features(image)
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    width, prefix = int(trunk.num_features), int(getattr(trunk, "num_prefix_tokens", 0))
    if len(shape) == 3 and shape[2] == width and shape[1] > prefix:
        return partial(_read_timm, dims=(1,), prefix=prefix), width
    if len(shape) == 4 and width in (shape[1], shape[3]):
        return partial(_read_timm, dims=(2, 3) if shape[1] == width else (1, 2)), width
    got = list(shape) if shape else type(features).__name__
    raise HeadwordError(
        f"timm's {type(trunk).__name__} gives no patch tokens: its features are {got}, "
        f"not a sequence or a grid of width {width}; use another image tower"
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, each submodule's own mode kept (a frozen batch norm stays frozen)."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training
