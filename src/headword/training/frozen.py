"""Parts of a model that a method does not train."""

from __future__ import annotations

import torch
from torch import nn

from headword.training.superclip import SuperCLIP
from headword.training.towers import evaluating


def freeze_unreached(model: SuperCLIP, method: str) -> None:
    """Freeze what no loss of a method depends on, such as the decoder of a captioner (CoCa).

    Several processes would wait for its gradients for ever. One black image and an empty caption tell.
    """
    device = model.token_head.linear.weight.device
    with evaluating(model), torch.enable_grad():
        texts = None if method == "superclass" else model.tokenize([""]).ids.to(device)
        output = model(torch.zeros(1, 3, *model.clip.visual.image_size, device=device), texts)
    token = ("token_features", "token_weight", "token_bias")
    lost = {"clip": token, "superclass": ("image_features", "logit_scale", "logit_bias")}.get(method, ())
    nodes = [
        tensor.grad_fn or torch.autograd.graph.get_gradient_edge(tensor).node
        for name, tensor in output._asdict().items()
        if tensor is not None and tensor.requires_grad and name not in lost
    ]
    reached, seen = set(), set(nodes)
    while nodes:
        node = nodes.pop()
        if (variable := getattr(node, "variable", None)) is not None:
            reached.add(variable)
        more = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= more
        nodes += more
    for parameter in model.parameters():
        if parameter not in reached:
            parameter.requires_grad_(False)


def frozen_parts(model: nn.Module) -> tuple[str, ...]:
    """What is not trained: the largest modules without a trained parameter, and single parameters beside."""
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    parts: list[str] = []
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}" for name, _ in module.named_parameters()}
        if prefix and own and own <= names:
            parts.append(prefix)
            names -= own
    return tuple(name.removeprefix("clip.") for name in [*parts, *sorted(names)])
