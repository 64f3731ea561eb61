"""Find a classifier's head, check it against the model's own logits, and read features at its input.

Nothing here knows a model by name. A head is the linear layer (or 1×1 convolution) whose output *is* the
logits; the feature is what that layer receives, whatever pooling, norms or hidden layers come before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headword.errors import HeadwordError

Activation = Literal["none", "sigmoid", "softmax", "log_softmax"]

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "sigmoid": torch.sigmoid,
    "softmax": lambda z: z.softmax(dim=1),
    "log_softmax": lambda z: z.log_softmax(dim=1),
}

_TOLERANCE = 1e-3  # the features came through the same layers: only the last product's rounding may differ


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head: logits = features @ weight.T + bias.

    A head made of several linear layers whose outputs are averaged (distilled models) reads as one: its
    features are the layers' inputs side by side and its rows the layers' rows, each divided by their number.
    """

    weight: Tensor
    """`[C, d]`, a prototype a row."""
    bias: Tensor
    """`[C]`, zeros where the head has none."""
    modules: tuple[str, ...]
    """Dotted names of the linear layers."""
    activation: Activation
    """What the model itself applies to the logits before it returns them."""
    error: float
    """Largest difference between features @ weight.T + bias and the model's output, over how far the features
    move the output from what the bias alone gives.
    """
    widths: tuple[int, ...] = ()
    """Where several classifiers are joined, the widths of their features."""

    @property
    def where(self) -> str:
        """The layers' names in one, for messages."""
        return "+".join(self.modules)

    @property
    def n_classes(self) -> int:
        """Number of rows C."""
        return len(self.weight)

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.weight.shape[1]


class HeadReader:
    """Runs a model and reads the inputs of its head's layers.

    Hooks are set for the length of a call and taken off again, so that a user's module stays as it was; a
    lock keeps two threads from reading each other's features.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str]) -> None:
        self.model, self.modules = model, tuple(modules)
        self._lock = threading.Lock()

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[N, 3, H, W]`, already transformed → features `[N, d]` and the model's output `[N, C]`."""
        seen: dict[str, Tensor] = {}

        def reader(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = args[0] if args else kwargs["input"]
                # A map that is pooled after its 1×1 convolution is pooled before it.
                seen[name] = x.mean(dim=(2, 3)) if x.ndim == 4 else x

            return hook

        with self._lock, ExitStack() as hooks:
            for name in self.modules:
                layer = self.model.get_submodule(name)
                hooks.callback(layer.register_forward_pre_hook(reader(name), with_kwargs=True).remove)
            output = logits_of(self.model(batch))
        for name in self.modules:
            if name not in seen:
                raise HeadwordError(
                    f"the model's forward pass never reaches its head {name!r}; name another head"
                )
            if seen[name].ndim != 2:
                raise HeadwordError(
                    f"the layer {name!r} is applied at every position of a map: it is no head"
                )
        return torch.cat([seen[name] for name in self.modules], dim=1), output


def find_head(
    model: nn.Module,
    example: Tensor,
    *,
    head: str | Sequence[str] | None = None,
    hint: str | Sequence[str] | None = None,
) -> Head:
    """Find, read and check the head of a classifier.

    Args:
        model: any module in eval mode that maps images to class scores (a tensor, or an output with
            `logits`).
        example: `[N, 3, H, W]`, random inputs to check with.
        head: dotted name(s) that a user gave: this head or none. Of a container the last linear layer inside
            is taken.
        hint: dotted name(s) from the model's configuration, tried first. After it, every linear layer with as
            many outputs as classes is.

    Raises:
        HeadwordError: if no linear layer (or not the one named) gives the model's logits, or its rows are
            zero or not finite.
    """
    candidates = []
    if head is not None:
        candidates = [_linear_layers(model, head)]
    else:
        with suppress(HeadwordError):  # a configuration may name a layer that is not there
            candidates = [_linear_layers(model, hint or ())]
        candidates += _by_output(model, example)
    heads: list[Head] = []
    for modules in dict.fromkeys(candidates):
        candidate = _read(model, modules, example)
        heads += [candidate] if candidate is not None else []
        if heads and heads[-1].error <= _TOLERANCE:
            return _refuse_untrained(heads[-1])
    if heads:
        closest = min(heads, key=lambda candidate: candidate.error)
        raise HeadwordError(
            f"the layer {closest.where!r} is not a linear head: features @ W.T + b differs from the model's "
            f"own output by {closest.error:.1%} of its scale; name the last linear layer with head="
        )
    if head is not None:
        raise HeadwordError(
            f"the layer {'+'.join(candidates[0])!r} is no head: what it takes or gives does not fit the "
            "model's class scores; name the last linear layer, or none to have it found"
        )
    raise HeadwordError(
        "found no linear head: no Linear layer or 1x1 convolution has as many outputs as the model has "
        "classes (a backbone without a head, perhaps); choose a checkpoint with its classifier, or name the "
        "head with head="
    )


def logits_of(output: Any) -> Tensor:
    """The class scores `[N, C]` in what a model returns: a tensor, `.logits`, or a tuple's first entry."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if isinstance(output, dict) and "logits" in output:
        output = output["logits"]
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise HeadwordError(f"the model returns {type(output).__name__}, not class scores [N, C]")
    scores = output.flatten(1) if output.ndim > 2 else output
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise HeadwordError(f"the model's output has shape {list(output.shape)}, not class scores [N, C]")
    return scores


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _tensor(module: nn.Module, name: str) -> Tensor:
    """A layer's weight or bias; not always a plain parameter (weight norm computes it)."""
    tensor: Tensor = getattr(module, name)
    return tensor.detach().float()


def _linear_layers(model: nn.Module, names: str | Sequence[str]) -> tuple[str, ...]:
    """The dotted names of the linear layers meant by names of layers or of containers that end in one."""
    known = dict(model.named_modules())
    linear = [name for name, module in known.items() if _is_linear(module)]
    layers = []
    for name in (names,) if isinstance(names, str) else names:
        if not name or name not in known:
            raise HeadwordError(
                f"the model has no module {name!r}; its last ones: {', '.join([*known][-4:])}"
            )
        inside = [layer for layer in linear if f"{layer}.".startswith(f"{name}.")]
        if not inside:
            raise HeadwordError(
                f"the module {name!r} has no Linear layer or 1x1 convolution; name another head"
            )
        layers.append(inside[-1])
    return tuple(layers)


def _by_output(model: nn.Module, example: Tensor) -> list[tuple[str, ...]]:
    """Linear layers with as many outputs as classes: each alone, the last first, then all (averaged)."""
    with torch.inference_mode():
        n_classes = logits_of(model(example)).shape[1]
    linear = [(name, layer) for name, layer in model.named_modules() if _is_linear(layer)]
    names = [name for name, layer in linear if len(_tensor(layer, "weight")) == n_classes]
    alone: list[tuple[str, ...]] = [(name,) for name in reversed(names)]
    return [*alone, tuple(names)] if len(names) > 1 else alone


def _read(model: nn.Module, modules: tuple[str, ...], example: Tensor) -> Head | None:
    """The named layers as one head, compared with the model's output; None where their shapes do not fit."""
    layers = [model.get_submodule(name) for name in modules]
    weights = [_tensor(layer, "weight").flatten(1) for layer in layers]
    if len({len(weight) for weight in weights}) != 1:
        return None
    weight = torch.cat(weights, dim=1) / len(layers)
    broken = ~torch.isfinite(weight).all(dim=1)
    if broken.any():
        raise HeadwordError(
            f"{int(broken.sum())} of {len(weight)} rows of the head {'+'.join(modules)!r} hold NaN or "
            f"infinite values (the first is row {int(broken.nonzero()[0])}): this checkpoint is damaged"
        )
    bias = torch.zeros(len(weight), device=weight.device)
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            bias = bias + _tensor(layer, "bias") / len(layers)
    try:
        features, output = HeadReader(model, modules)(example)
    except HeadwordError:
        return None
    if features.shape[1] != weight.shape[1] or output.shape[1] != len(weight):
        return None
    if not torch.isfinite(output).all():
        raise HeadwordError("the model's output for a random image is not finite: its weights are damaged")
    output, logits = output.float(), features.float() @ weight.T + bias
    errors = {}
    for name, activate in _ACTIVATIONS.items():
        activated = activate(logits)
        # A large bias would hide a wrong head behind a large output: what counts is what the features add.
        scale = (activated - activate(bias[None])).abs().max().clamp_min(1e-6)
        errors[name] = float((activated - output).abs().max() / scale)
    best = min(errors, key=lambda name: errors[name])
    return Head(weight, bias, modules, best, errors[best])


def _refuse_untrained(head: Head) -> Head:
    zero = (head.weight == 0).all(dim=1).nonzero().flatten().tolist()
    rows = f"{head.n_classes} rows of the head {head.where!r} are zero"
    if len(zero) == head.n_classes:
        raise HeadwordError(f"all {rows}: this checkpoint has no trained head")
    if zero:
        first = f"(the first is row {zero[0]})"
        raise HeadwordError(f"{len(zero)} of {rows} {first}: those classes were never trained")
    return head
