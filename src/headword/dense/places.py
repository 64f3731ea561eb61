"""The features of every place of a picture, whose mean is the feature of the whole.

Nothing here knows a model by name. A forward pass is watched for the operation at which a picture's places
are lost: a mean over a map or over tokens, the one query of an attention pool, or the class token that is
taken out of all tokens. Run again, that operation gives a *batch*, the whole first and then each place by
itself, and what follows (norms, projections, hidden layers of a head) treats places as it treats pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headword.dense.folding import Folding, Norms
from headword.encoders.joint_vision import JointClassifier
from headword.encoders.vision import Reader, VisionEncoder, VisionSource
from headword.errors import HeadwordError
from headword.head.finding import HeadReader

EXACT = 1e-4
"""How far the places' mean may be from the whole, in norms of the whole, and still be called exact."""

_MEANS = {"mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d"}
_ATTENTION = {"scaled_dot_product_attention", "_native_multi_head_attention"}
_REFUSALS = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, HeadwordError)
"""What models say to a picture of another size, and to a batch where they expect one picture."""

_LEAST = 8
"""Sides, at least, of the picture that a backbone is tried on."""

_PREFIX = 16
"""Class and register tokens, at most."""

Kind = Literal["mean", "query", "token"]


@dataclass(frozen=True, slots=True)
class DenseFeatures:
    """Features of the places of one picture."""

    whole: Tensor
    """`[d]`, of the picture as it was read."""
    cells: Tensor
    """`[d, h, w]`"""

    @property
    def error(self) -> float:
        """How far the mean over places is from the whole, in norms of the whole."""
        return float((self.cells.mean(dim=(1, 2)) - self.whole).norm() / self.whole.norm().clamp_min(1e-12))

    def resized(self, height: int, width: int) -> DenseFeatures:
        """On another grid, with the same mean."""
        if self.cells.shape[1:] == (height, width):
            return self
        cells = F.interpolate(self.cells[None], size=(height, width), mode="bilinear", antialias=True)[0]
        lost = self.cells.mean(dim=(1, 2)) - cells.mean(dim=(1, 2))
        return replace(self, cells=cells + lost[:, None, None])


@dataclass(frozen=True, slots=True)
class DenseReader:
    """Reads the places of one backbone; made by `place_readers`."""

    source: VisionSource
    loss: _Loss
    encoder: VisionEncoder
    reader: Reader
    folded: dict[int, tuple[Tensor, Tensor]]
    """Weights and bias of convolutions, by number, that do their batch norm's work."""
    black: Tensor
    """`[3]`, what the transform makes of the darkest level, and `white` of the brightest."""
    white: Tensor
    exact: bool = False
    """Whether the mean over places is the feature."""

    def pixels(self, picture: Image.Image, width: int, height: int) -> Tensor:
        """All of an RGB picture `[3, H, W]` at a size, with the transform's own normalisation."""
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        return levels * (self.white - self.black)[:, None, None] + self.black[:, None, None]

    def __call__(self, pixels: Tensor) -> DenseFeatures:
        """One transformed picture `[3, H, W]` → its places.

        Raises:
            HeadwordError: if the model does not take this size.
        """
        height, width = pixels.shape[-2:]
        split = _Split(self.loss, (height, width), Norms(self.folded))
        try:
            rows = _run(self.encoder, self.reader, pixels, split)
        except _REFUSALS as error:
            first = str(error).partition("\n")[0]
            raise HeadwordError(
                f"{self.source.name} cannot read a picture of {width}×{height} pixels ({first}); choose "
                f"the size it was trained at, {self.source.input_size[1]}×{self.source.input_size[0]}"
            ) from error
        whole, cells = rows[0], rows[1:]
        if len(cells) != split.grid[0] * split.grid[1]:
            raise HeadwordError(_refusal(self.source))
        return DenseFeatures(whole, cells.T.reshape(-1, *split.grid))

    def takes(self, height: int, width: int) -> bool:
        """Whether the model reads a picture of this size."""
        try:
            self(torch.zeros(3, height, width))
        except HeadwordError:
            return False
        return True


def place_readers(vision: VisionEncoder) -> list[DenseReader]:
    """A reader for each backbone: one, or as many as were joined.

    Raises:
        HeadwordError: if a backbone keeps no places up to its feature: it flattens its map, say.
    """
    model = vision.source.model
    if not isinstance(model, JointClassifier):
        return [_reader(vision, vision.source, vision.reader)]
    readers = []
    for n, (part, source) in enumerate(zip(model.parts, vision.source.parts, strict=True)):
        prefix = f"parts.{n}."
        layers = [name.removeprefix(prefix) for name in vision.read_at if name.startswith(prefix)]
        readers.append(_reader(vision, source, HeadReader(part, layers)))
    return readers


def _reader(encoder: VisionEncoder, source: VisionSource, reader: Reader) -> DenseReader:
    """The reader of one backbone; which operation it splits is found on a random picture."""
    sides = [max(_LEAST, side) for side in source.input_size]  # of one pixel there would be one place
    pixels = torch.randn(3, *sides, generator=torch.Generator().manual_seed(0))
    watch = _Watch()
    _run(encoder, reader, pixels, watch)
    if watch.loss is None:
        raise HeadwordError(_refusal(source))
    black, grey, white = (
        source.transform(Image.new("RGB", (64, 64), (level, level, level))).float().mean(dim=(1, 2))
        for level in (0, 51, 255)
    )
    if not torch.allclose(grey, black + 0.2 * (white - black), atol=1e-3):
        raise HeadwordError(
            f"{source.name} cannot say where: its transform does more than resize, crop and normalise"
        )
    found = DenseReader(source, watch.loss, encoder, reader, watch.folding.folded(), black, white)
    try:
        places = found(pixels)
    except HeadwordError:
        raise HeadwordError(_refusal(source)) from None
    cells = places.cells.flatten(1)
    if cells.shape[1] > 1 and float(cells.std(dim=1).max()) < 1e-6 * float(cells.abs().max()):
        raise HeadwordError(_refusal(source))  # what follows does not look at places
    # Attention is no plain mean, however near to one it is on one picture.
    return replace(found, exact=watch.loss.kind == "mean" and places.error < EXACT)


def _refusal(source: VisionSource) -> str:
    return (
        f"{source.name} cannot say where: it keeps no places up to its feature (no mean over places, no "
        "attention pool, no class token among patches); use a classifier that pools, such as EfficientNet, "
        "ResNet, ConvNeXt, Swin or a ViT"
    )


@torch.inference_mode()
def _run(encoder: VisionEncoder, reader: Reader, pixels: Tensor, mode: TorchDispatchMode) -> Tensor:
    """One picture `[3, H, W]` through a backbone, watched → features `[rows, d]`, float32 on the CPU."""
    batch = pixels[None].to(encoder.device, memory_format=torch.channels_last)
    with (
        torch.autocast(encoder.device.type, dtype=torch.bfloat16, enabled=encoder.dtype == torch.bfloat16),
        mode,
    ):
        features, _ = reader(batch)
    return features.float().cpu()


@dataclass(frozen=True, slots=True)
class _Loss:
    """Where a pass loses its places."""

    kind: Kind
    number: int
    """Which of the pass's means it is, or of its attentions; counted from 0."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a pass of one picture for where its places are lost."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.loss: _Loss | None = None
        self.folding = Folding()
        self.means = self.attentions = self.tokens = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, first = _name(func), out[0] if isinstance(out, (tuple, list)) else out
        self.folding.watch(name, args, out)
        if not isinstance(first, Tensor) or not args or not isinstance(args[0], Tensor):
            return out
        if _pooled_axes(name, args, first):
            self.loss = _Loss("mean", self.means)
            self.means += 1
        elif name in _ATTENTION:
            one = args[0].shape[-2] == 1 < args[1].shape[-2]
            self.loss = _Loss("query", self.attentions) if one else None
            self.tokens = 0 if one else args[0].shape[-2]
            self.attentions += 1
        elif name == "select" and self.tokens and _token_axis(args[0], self.tokens) == args[1]:
            self.loss = _Loss("token", self.attentions - 1)
        elif self.loss and self.loss.kind == "mean" and first.ndim > 2 and first.numel() > max(first.shape):
            self.loss = None  # a map after it: that was a gate within a block
        return out


class _Split(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes a batch of the whole and its places, of a picture (H, W), where they are lost."""

    def __init__(self, loss: _Loss, size: tuple[int, int], norms: Norms) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.loss, self.size, self.norms = loss, size, norms
        self.grid = (0, 0)
        self.rows = self.means = self.attentions = self.tokens = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        if (folded := self.norms(name, func, args, kwargs)) is not None:
            return folded
        if self.rows:
            args = self._as_rows(name, args)
            norm = name in ("layer_norm", "rms_norm") and args[0].shape[0] == self.rows
            if norm and self.loss.kind == "mean":
                return _held_norm(name, *args)
        out = func(*args, **kwargs)
        first = out[0] if isinstance(out, (tuple, list)) else out
        if not isinstance(first, Tensor) or not args or not isinstance(args[0], Tensor):
            return out
        if axes := _pooled_axes(name, args, first):
            self.means += 1
            if self.loss == _Loss("mean", self.means - 1):
                return self._split_mean(args[0], axes, first)
        elif name in _ATTENTION:
            self.attentions += 1
            if self.loss.kind != "mean" and self.loss.number == self.attentions - 1:
                split = self._split_attention(_values(name, args), first)
                return (split, *out[1:]) if isinstance(out, (tuple, list)) else split
        elif name == "select" and self.tokens and _token_axis(args[0], self.tokens) == args[1]:
            tokens = args[0].movedim(args[1], 0)[-self.grid[0] * self.grid[1] :, 0]
            return self._batch(first, tokens)
        return out

    def _split_mean(self, x: Tensor, axes: list[int], mean: Tensor) -> Tensor:
        """`[1, …]` → `[1 + P, …]`."""
        sides = [x.shape[axis] for axis in axes]
        self.grid = (sides[0], sides[1]) if len(sides) == 2 else _grid(sides[0], self.size)
        return self._batch(mean, x.movedim(axes, list(range(len(axes)))).flatten(0, len(axes) - 1))

    def _split_attention(self, values: Tensor, out: Tensor) -> Tensor:
        """A place is what it says itself, not what all say: its value in place of the attention's mean."""
        self.grid = _grid(values.shape[-2], self.size)
        places = self.grid[0] * self.grid[1]
        if self.loss.kind == "query":
            return self._batch(out, values.movedim(-2, 0)[-places:])
        self.tokens = out.shape[-2]
        return torch.cat([out[..., :-places, :], values[..., -places:, :]], dim=-2)

    def _batch(self, whole: Tensor, places: Tensor) -> Tensor:
        rows = torch.cat([whole, places.reshape(-1, *whole.shape[1:])])
        self.rows = len(rows)
        return rows

    def _as_rows(self, name: str, args: Any) -> Any:
        """The arguments of an operation that counts on a batch of one."""
        if name in ("reshape", "view") and args[0].shape[0] == self.rows and args[1][0] == 1:
            return (args[0], [self.rows, *args[1][1:]], *args[2:])
        if name == "cat" and any(part.shape[0] == self.rows for part in args[0]):
            whole = [p.expand(self.rows, *p.shape[1:]) if p.shape[0] == 1 else p for p in args[0]]
            return (whole, *args[1:])
        return args


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def _pooled_axes(name: str, args: Any, out: Tensor) -> list[int]:
    """The axes of a picture's places `[1, …]` that an operation takes the mean over, if it does."""
    x = args[0]
    if name not in _MEANS or x.shape[0] != 1 or x.ndim not in (3, 4) or out.numel() in (1, x.numel()):
        return []
    if name == "mean":
        given = args[1] if len(args) > 1 and args[1] is not None else []
        axes = sorted(axis % x.ndim for axis in ([given] if isinstance(given, int) else given))
    else:
        axes = list(range(2, x.ndim)) if max(out.shape[2:]) == 1 else []
    return axes if len(axes) == x.ndim - 2 and 0 not in axes else []


def _values(name: str, args: Any) -> Tensor:
    """What attention averages, on its way out: `[…, N, d]`."""
    if name == "scaled_dot_product_attention":
        return args[2]  # type: ignore[no-any-return]
    value, width, weight, bias, *out = (args[n] for n in (2, 3, 5, 6, 7, 8))
    return F.linear(F.linear(value, weight[2 * width :], bias[2 * width :]), *out)


def _token_axis(x: Tensor, tokens: int) -> int | None:
    """Which axis of `[1, N, C]` or `[N, 1, C]` counts the tokens."""
    if x.ndim != 3 or 1 not in x.shape[:2] or tokens not in x.shape[:2]:
        return None
    return x.shape[:2].index(tokens)


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the patches of a picture (H, W) among tokens, of which some may stand for none."""
    for patch in range(1, max(size) + 1):
        grid = size[0] // patch, size[1] // patch
        if 0 < grid[0] * grid[1] <= tokens:
            if tokens - grid[0] * grid[1] > _PREFIX:
                break
            return grid
    raise HeadwordError(f"{tokens} tokens are no grid of a picture of {size[1]}×{size[0]} pixels")


def _held_norm(name: str, x: Tensor, shape: list[int], weight: Tensor | None = None, *rest: Any) -> Tensor:
    """Layer or RMS norm of rows `[1 + P, …]` by the statistics of the first, the whole: linear in rows."""
    axes, whole = list(range(-len(shape), 0)), x[:1].float()
    if name == "layer_norm":
        bias, eps = rest[0] if rest else None, rest[1] if len(rest) > 1 else 1e-5
        var, mean = torch.var_mean(whole, dim=axes, correction=0, keepdim=True)
    else:
        bias, eps = None, rest[0] if rest and rest[0] is not None else torch.finfo(x.dtype).eps
        var, mean = whole.square().mean(dim=axes, keepdim=True), torch.zeros_like(whole[..., :1])
    normed = (x - mean) * (var + eps).rsqrt()
    normed = normed if weight is None else normed * weight
    return (normed if bias is None else normed + bias).to(x.dtype)
