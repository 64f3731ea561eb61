"""Patch tokens of open_clip's image towers, taken while the embedding is computed: the tower runs once.

Patch tokens are what the tower hands to its own pooling, without class or register tokens: after the final
norm where that stands before the pooling (ViT, SigLIP), before it where it follows (ConvNeXt, "gap" ViTs).
The head's own LayerNorm comes after the mean in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from open_clip.model import ModifiedResNet, TimmModel, VisionTransformer
from torch import Tensor, nn

from headword.errors import HeadwordError

Reader = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""(tower, images `[B, 3, H, W]`) → embedding `[B, D]`, not normalised, and mean patch token `[B, width]`."""


def patch_reader(visual: nn.Module) -> tuple[Reader, int]:
    """How to get at a tower's patch tokens, and their width.

    A timm tower is tried on one black image, since only its output says how it lays tokens out; its weights,
    batch-norm statistics and training mode stay as they are.

    Raises:
        HeadwordError: if the tower is not one of open_clip's, or gives no patch tokens.
    """
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
        f"cannot find patch tokens in a {type(visual).__name__}; "
        "use an image tower from open_clip's factory (VisionTransformer, ModifiedResNet or a timm model)"
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
    out = visual.forward_intermediates(
        images, indices=1, output_fmt="NLC"
    )  # the last block, [B, patches, width]
    return out["image_features"], out["image_intermediates"][0].mean(dim=1)


def _read_resnet(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    out = visual.forward_intermediates(images, indices=1)  # the last stage, [B, width, H/32, W/32]
    return out["image_features"], out["image_intermediates"][0].mean(dim=(2, 3))


def _read_timm(visual: Any, images: Tensor, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    # What the tower's own forward does, with a look in between.
    features = visual.trunk.forward_features(images)
    return visual.head(visual.trunk.forward_head(features)), pool(features)


def _timm_reader(visual: Any) -> tuple[Reader, int]:
    trunk = visual.trunk
    # A convolution's type is the images' type; norms and embeddings may be kept in a wider one.
    parameter = next((p for p in trunk.parameters() if p.ndim == 4), next(trunk.parameters()))
    with evaluating(trunk), torch.no_grad():
        image = torch.zeros((1, 3, *visual.image_size), dtype=parameter.dtype, device=parameter.device)
        features = trunk.forward_features(image)
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    width, prefix = int(trunk.num_features), int(getattr(trunk, "num_prefix_tokens", 0))
    if len(shape) == 3 and shape[2] == width and shape[1] > prefix:
        return partial(_read_timm, pool=partial(_mean_of_sequence, prefix=prefix)), width
    if len(shape) == 4 and shape[1] == width:
        return partial(_read_timm, pool=partial(torch.mean, dim=(2, 3))), width
    if len(shape) == 4 and shape[3] == width:
        return partial(_read_timm, pool=partial(torch.mean, dim=(1, 2))), width
    got = list(shape) if shape else type(features).__name__
    raise HeadwordError(
        f"timm's {type(trunk).__name__} gives no patch tokens: its features are {got}, "
        f"not a sequence or a grid of width {width}; use another image tower"
    )


def _mean_of_sequence(tokens: Tensor, prefix: int) -> Tensor:
    """`[B, prefix + patches, width]` → `[B, width]`."""
    return tokens[:, prefix:].mean(dim=1)


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
