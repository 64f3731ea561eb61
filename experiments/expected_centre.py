"""What a classifier's features are on average, from its own weights: no image is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headword.encoders.vision import VisionEncoder

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.Identity)
_LARGEST = 8.0  # standard deviations that the integral goes to
_POINTS = 2001


@torch.inference_mode()
def expected_centre(vision: VisionEncoder) -> Tensor | None:
    """The mean of unit-norm features `[d]` that the last batch norm expects, or None where it cannot be told.

    Where the features are the mean over positions of act(batch norm), a channel's mean over the training
    images is μ = E[act(β + |γ| z)], z standard normal. Whether it is so is seen from one batch of noise. The
    mean of *unit-norm* features is shorter than μ/‖μ‖ by the images' spread: with V the sum of the channels'
    variances at one position and P positions, ‖μ‖/√(‖μ‖² + V) where all positions say the same and
    ‖μ‖/√(‖μ‖² + V/P) where each says something of its own. The geometric mean of the two is taken.
    """
    found = _last_norm(vision)
    if found is None:
        return None
    norm, activation, positions = found
    z = torch.linspace(-_LARGEST, _LARGEST, _POINTS, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    bias, spread = norm.bias.detach().cpu().double(), norm.weight.detach().cpu().double().abs()
    values: Tensor = activation(bias[:, None] + spread[:, None] * z)  # [d, points]
    mean = values @ density
    variance = float((values.square() @ density - mean.square()).sum())
    squared = float(mean.square().sum())
    if squared == 0:
        return None
    shares = [squared / (squared + variance / apart) for apart in (1, positions)]
    length = (shares[0] * shares[1]) ** 0.25
    centre: Tensor = mean * (length / squared**0.5)
    return centre.float()


def _last_norm(vision: VisionEncoder) -> tuple[nn.BatchNorm2d, nn.Module, int] | None:
    """The batch norm and activation whose mean over positions the features are, and how many positions."""
    modules = list(vision.source.model.modules())
    norms = [
        (place, module)
        for place, module in enumerate(modules)
        if isinstance(module, nn.BatchNorm2d) and module.affine and module.num_features == vision.dim
    ]
    if not norms:
        return None
    place, norm = norms[-1]
    outputs: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _module, _input, output: outputs.append(output.clone()))
    try:
        noise = torch.randn(2, 3, *vision.source.input_size, generator=torch.Generator().manual_seed(0))
        features = vision.encode(noise)
    finally:
        hook.remove()
    if len(outputs) != 1:
        return None
    output = outputs[0].float().cpu()
    # timm's batch norm has its activation inside; elsewhere it is a module that follows.
    inside = getattr(norm, "act", None)
    candidates = modules[place + 1 : place + 4] if inside is None else [inside]
    for activation in candidates if inside is not None else (*candidates, nn.Identity()):
        if isinstance(activation, _ACTIVATIONS):
            made = output if inside is not None else activation(output.clone())
            pooled = made.mean(dim=(2, 3))
            if torch.allclose(pooled, features, rtol=1e-3, atol=1e-3 * float(features.abs().max())):
                return norm, activation, output.shape[2] * output.shape[3]
    return None
