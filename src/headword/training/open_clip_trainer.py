"""SuperCLIP in open_clip's own trainer: a model and a loss of its kind, and one of its task objects.

model, loss = for_open_clip(SuperCLIPTask(superclip))
open_clip_train.train.train_one_epoch(model, data, loss, epoch, optimizer, …)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from headword.errors import HeadwordError
from headword.training.objective import SuperCLIPTask, freeze_unreached


class TrainerModel(nn.Module):
    """A task as a model of open_clip's: it gives what they give and, in training, "token_loss" `[1]`.

    The token loss is computed here, not beside the contrastive one, so that whatever wraps the model (DDP,
    FSDP) sees each use of a parameter. What no loss reaches, as CoCa's decoder, is frozen.
    """

    def __init__(self, task: SuperCLIPTask) -> None:
        super().__init__()
        freeze_unreached(task)
        self.task = task

    @property
    def clip(self) -> Any:
        """The wrapped model."""
        return self.task.model.clip

    @property
    def visual(self) -> nn.Module:
        """Its image tower."""
        tower: nn.Module = self.clip.visual
        return tower

    @property
    def logit_scale(self) -> nn.Parameter:
        """Its logit scale, which the trainer clamps."""
        scale: nn.Parameter = self.clip.logit_scale
        return scale

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Image embeddings `[B, D]`, for open_clip's evaluation."""
        return self.task.model.encode_image(image, normalize=normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Text embeddings `[B, D]`."""
        return self.task.model.encode_text(text, normalize=normalize)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Images `[B, 3, H, W]` and token ids `[B, L]` → features, logit scale and token loss."""
        output: dict[str, Tensor] = self.task.model(image, text)
        features = output.pop("token_features")
        output["logit_scale"] = self.clip.logit_scale.exp()
        if self.clip.logit_bias is not None:
            output["logit_bias"] = self.clip.logit_bias
        if self.training:
            linear = self.task.model.token_head.linear
            # open_clip's gradient accumulation looks at a batch twice, first without gradients.
            count = torch.is_grad_enabled()
            token = self.task.loss["token_loss"](features, linear.weight, linear.bias, text, update=count)
            output["token_loss"] = token[None]
        return output


class TrainerLoss(nn.Module):
    """The loss of a `TrainerModel`'s output, called as open_clip's own are, the token loss in it."""

    def __init__(self, task: SuperCLIPTask) -> None:
        super().__init__()
        self.contrastive, self.contrastive_weight = task.loss["contrastive_loss"], task.contrastive_weight

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        token_loss: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> dict[str, Tensor] | Tensor:
        """ "contrastive_loss" and "token_loss", whose sum is the loss; of accumulated batches, their mean."""
        bias = {} if logit_bias is None else {"logit_bias": logit_bias}
        contrastive = self.contrastive(image_features, text_features, logit_scale, **bias)
        losses = {
            "contrastive_loss": self.contrastive_weight * contrastive,
            "token_loss": token_loss.float().mean(),
        }
        return losses if output_dict else losses["contrastive_loss"] + losses["token_loss"]


def for_open_clip(task: SuperCLIPTask) -> tuple[TrainerModel, TrainerLoss]:
    """The model and the loss that `open_clip_train.train.train_one_epoch` takes."""
    return TrainerModel(task), TrainerLoss(task)


def open_clip_task(task: SuperCLIPTask) -> nn.Module:
    """The same as one of open_clip's task objects.

    Raises:
        HeadwordError: where the installed open_clip has none.
    """
    try:
        from open_clip.task import CLIPTask
    except ModuleNotFoundError:
        import open_clip

        raise HeadwordError(
            f"open_clip {open_clip.__version__} has no task objects; give its trainer the model and the loss "
            "of for_open_clip(task)"
        ) from None
    made: nn.Module = CLIPTask(*for_open_clip(task))
    return made
