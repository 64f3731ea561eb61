"""What is trained: a task a method, which holds a model and its losses.

Losses are means over this process's pairs with all processes' negatives and counts, so that averaging
gradients over processes, as DistributedDataParallel does, gives the joint batch's. All hold equally many.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn

from headword.encoders.patch_tokens import evaluating
from headword.errors import HeadwordError
from headword.losses import TokenClassificationLoss
from headword.training.superclip import SuperCLIP

if TYPE_CHECKING:
    from headword.training.config import TrainConfig

Tensors = Mapping[str, Tensor]  # by name. A batch has "images" `[B, 3, H, W]` and "texts" `[B, L]` token ids


class TrainingTask(nn.Module):
    """A model and its losses, one module, so that whatever wraps it (DDP, FSDP) sees each use of a parameter.

    `training_forward(batch)` gives the losses by name; "loss" is their sum. Cached gradients cut between its
    halves, `features`, a row a pair, and `losses` of all rows. Build it when the process group is up; its
    `state_dict` holds the word counts, too.
    """

    uses: ClassVar[tuple[str, ...]]  # what of the model's output the losses take

    def __init__(self, model: SuperCLIP, **losses: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.average: SuperCLIP | None = None  # of the model's weights over the steps, see `keep_average`
        self.loss = nn.ModuleDict(losses).to(model.token_head.linear.weight.device)

    @property
    def direct(self) -> list[nn.Parameter]:
        """Parameters that the losses take besides the features: logit scale and bias, the token layer."""
        clip, parameters = self.model.clip, list[nn.Parameter]()
        if "contrastive_loss" in self.loss:
            parameters += [p for p in (clip.logit_scale, clip.logit_bias) if p is not None]
        if "token_loss" in self.loss:
            parameters += self.model.token_head.linear.parameters()
        return parameters

    def keep_average(self) -> None:
        """Begin an exponential moving average of the weights, which no gradient reaches."""
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()

    @torch.no_grad()
    def update_average(self, step: int, decay: float) -> None:
        """Take in the weights after t steps, the first faster: the decay is at most (1 + t) / (10 + t)."""
        if self.average is None:
            return
        decay = min(decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)

    @property
    def token_counts(self) -> Tensor | None:
        """How many captions had each token `[V]`, where the token loss counts them."""
        counting = getattr(self.loss, "token_loss", None)
        return getattr(counting, "document_frequency", None)

    def losses(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:
        """The losses of a batch's features and its captions' token ids `[B, L]`."""
        raise NotImplementedError

    def features(self, batch: Tensors) -> dict[str, Tensor]:
        """What the losses take of the model's output, `[B, …]` each."""
        texts = batch["texts"] if "text_features" in self.uses else None
        output = self.model(batch["images"], texts)
        return {name: output[name] for name in self.uses}

    def training_forward(self, batch: Tensors) -> dict[str, Tensor]:
        """Model and losses at once."""
        return self.losses(self.features(batch), batch["texts"])

    def forward(self, step: Callable[..., Any], *inputs: Any) -> Any:
        """`step(*inputs)`, which uses this task: the one way in for what wraps it."""
        return step(*inputs)

    def _contrastive(self, features: Tensors) -> Tensor:
        world_size, clip, loss = _rank_and_world_size()[1], self.model.clip, self.loss["contrastive_loss"]
        built_for = getattr(loss, "world_size", world_size)
        if built_for != world_size:
            raise HeadwordError(
                f"the contrastive loss was built for {built_for} process(es) but {world_size} are running; "
                "build the task after init_process_group"
            )
        bias = {} if clip.logit_bias is None else {"logit_bias": clip.logit_bias}
        sides = features["image_features"], features["text_features"]
        value: Tensor = loss(*sides, clip.logit_scale.exp(), **bias)
        return value

    def _token(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:
        loss: Any = self.loss["token_loss"]
        linear = self.model.token_head.linear
        sets = loss.token_sets(texts)
        token = loss(features["token_features"], linear.weight, linear.bias, sets)
        return {"token": token, "n_empty": sets.n_empty}


class CLIPTask(TrainingTask):
    """Contrastive learning: softmax of exp(logit scale) · cosine (CLIP), or sigmoids (SigLIP) for a model
    with a logit bias. A `contrastive_loss` of your own takes the arguments of open_clip's `ClipLoss` and
    `SigLipLoss`.
    """

    uses = ("image_features", "text_features")

    def __init__(self, model: SuperCLIP, *, contrastive_loss: nn.Module | None = None) -> None:
        super().__init__(model, contrastive_loss=contrastive_loss or _contrastive_loss(model))

    def losses(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """As `TrainingTask`."""
        contrastive = self._contrastive(features)
        return {"loss": contrastive, "contrastive": contrastive}


class SuperClassTask(TrainingTask):
    """Token classification alone (SuperClass, Huang et al., NeurIPS 2024): the text tower does not run.

    The losses are "token" and "n_empty", captions without a word to predict; `settings` are those of
    `TokenClassificationLoss`: `weight` (λ), `uniform`, `reference_counting`, ….
    """

    uses = ("token_features",)

    def __init__(self, model: SuperCLIP, **settings: Any) -> None:
        super().__init__(model, token_loss=_token_loss(model, settings))

    def losses(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:
        """As `TrainingTask`."""
        token = self._token(features, texts)
        return {"loss": token["token"], **token}


class SuperCLIPTask(TrainingTask):
    """L = λ_contrastive · L_contrastive + L_token, with λ in L_token (SuperCLIP, Zhao et al., NeurIPS 2025).

    `contrastive_weight` is λ_contrastive > 0; the rest is as for `CLIPTask` and `SuperClassTask`.
    """

    uses = ("image_features", "text_features", "token_features")

    def __init__(
        self,
        model: SuperCLIP,
        *,
        contrastive_weight: float = 1.0,
        contrastive_loss: nn.Module | None = None,
        **settings: Any,
    ) -> None:
        if not 0 < contrastive_weight < float("inf"):
            raise HeadwordError(
                f"contrastive_weight must be finite and above 0, not {contrastive_weight}; SuperClassTask "
                "has no contrastive part"
            )
        contrastive_loss = contrastive_loss or _contrastive_loss(model)
        super().__init__(model, contrastive_loss=contrastive_loss, token_loss=_token_loss(model, settings))
        self.contrastive_weight = contrastive_weight

    def losses(self, features: Tensors, texts: Tensor) -> dict[str, Tensor]:
        """As `TrainingTask`."""
        contrastive = self.contrastive_weight * self._contrastive(features)
        token = self._token(features, texts)
        return {"loss": contrastive + token["token"], "contrastive": contrastive, **token}


def make_task(model: SuperCLIP, config: TrainConfig) -> TrainingTask:
    """The task that a configuration means."""
    if config.method == "clip":
        return CLIPTask(model)
    task = SuperClassTask if config.method == "superclass" else SuperCLIPTask
    uniform, reference = (config.token_targets == kind for kind in ("uniform", "reference"))
    return task(model, weight=config.token_weight, uniform=uniform, reference_counting=reference)


def freeze_unreached(task: TrainingTask) -> None:
    """Freeze what no loss depends on, as CoCa's decoder: several processes would wait for its gradients."""
    model, parameters = task.model, list(task.model.parameters())
    device = parameters[0].device
    image = torch.zeros(1, 3, *model.clip.visual.image_size, device=device)
    with evaluating(model), torch.enable_grad():
        features = task.features({"images": image, "texts": model.tokenize([""]).ids.to(device)})
        total = torch.stack([tensor.sum() for tensor in features.values()]).sum()
        gradients: Any = torch.autograd.grad(total, parameters, allow_unused=True)
    direct = {id(parameter) for parameter in task.direct}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None and id(parameter) not in direct:
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


def _token_loss(model: SuperCLIP, settings: Mapping[str, Any]) -> TokenClassificationLoss:
    tokenizer = model.needed_tokenizer()
    return TokenClassificationLoss.for_tokenizer(tokenizer, vocab_size=model.vocab_size, **settings)


def _contrastive_loss(model: SuperCLIP) -> nn.Module:
    rank, world_size = _rank_and_world_size()
    if model.clip.logit_bias is not None:
        loss: nn.Module = SigLipLoss(rank=rank, world_size=world_size)
    else:
        loss = ClipLoss(rank=rank, world_size=world_size, local_loss=True, gather_with_grad=True)
    return loss


def _rank_and_world_size() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
