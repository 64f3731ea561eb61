"""Contrastive loss plus token loss, for one process or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from typing_extensions import Self

from headword.errors import HeadwordError
from headword.losses import TokenClassificationLoss

if TYPE_CHECKING:
    from headword.training.superclip import SuperCLIPOutput


class SuperCLIPLosses(NamedTuple):
    """What one batch costs. All are tensors on the batch's device, so nothing waits for an accelerator."""

    total: Tensor
    """Scalar, contrastive + token: differentiate this."""
    contrastive: Tensor
    """Scalar, λ_contrastive included."""
    token: Tensor
    """Scalar, λ included."""
    n_empty: Tensor
    """Scalar int64, captions of this batch without a word to predict."""


class SuperCLIPLoss(nn.Module):
    """L = λ_contrastive · L_contrastive + L_token (SuperCLIP, Zhao et al., NeurIPS 2025; λ stands in the
    token loss).

    Both parts are means over the local captions with the global batch's negatives and counts, so that
    averaging gradients over ranks, as DistributedDataParallel does, gives the gradients of the joint batch.
    All ranks must hold equally many captions.

    Args:
        token_loss: with the counts that a checkpoint must keep: save this module's `state_dict`. With λ = 0
            (plain CLIP) it is not computed, and nothing is counted.
        contrastive_loss: open_clip's `ClipLoss` or `SigLipLoss`, or a module with the same arguments.
        contrastive_weight: λ_contrastive ≥ 0; 0 is SuperClass, and neither texts nor the contrastive loss
            are looked at.
    """

    def __init__(
        self,
        token_loss: TokenClassificationLoss,
        contrastive_loss: nn.Module,
        *,
        contrastive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= contrastive_weight < float("inf"):
            raise HeadwordError(f"contrastive_weight must be finite and ≥ 0, got {contrastive_weight}")
        self.token_loss = token_loss
        self.contrastive_loss = contrastive_loss
        self.contrastive_weight = contrastive_weight

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: Any,
        *,
        vocab_size: int,
        sigmoid: bool,
        contrastive_weight: float = 1.0,
        contrastive_loss: nn.Module | None = None,
        **settings: Any,
    ) -> Self:
        """With open_clip's loss for this process's rank: `SigLipLoss` if `sigmoid`, else `ClipLoss`."""
        token_loss = TokenClassificationLoss.for_tokenizer(tokenizer, vocab_size=vocab_size, **settings)
        if contrastive_loss is None:
            rank, world_size = _rank_and_world_size()
            build: Callable[..., nn.Module] = SigLipLoss if sigmoid else ClipLoss
            shared = {} if sigmoid else {"local_loss": True, "gather_with_grad": True}
            contrastive_loss = build(rank=rank, world_size=world_size, **shared)
        return cls(token_loss, contrastive_loss, contrastive_weight=contrastive_weight)

    def forward(
        self, output: SuperCLIPOutput, texts: Tensor, *, update: bool | None = None
    ) -> SuperCLIPLosses:
        """The losses of one batch.

        Args:
            output: of `SuperCLIP`, for B images and their captions; any features in it may be replaced
                (`output._replace`), as cached-gradient training does.
            texts: `[B, L]` token ids of the captions.
            update: whether to count these captions; see `TokenClassificationLoss.forward`.

        Raises:
            HeadwordError: if there is a contrastive part but no text features, if the process group changed
                since this was built, and as the token loss says.
        """
        zero = torch.zeros((), device=texts.device)
        contrastive = self._contrastive(output) if self.contrastive_weight else zero
        token = zero
        if self.token_loss.weight:
            token = self.token_loss(
                output.token_features, output.token_weight, output.token_bias, texts, update=update
            )
        return SuperCLIPLosses(contrastive + token, contrastive, token, self.token_loss.count_empty(texts))

    def _contrastive(self, output: SuperCLIPOutput) -> Tensor:
        if output.text_features is None:
            raise HeadwordError(
                "there are no text features for the contrastive part; "
                "give the model the texts too, or set contrastive_weight=0 (SuperClass)"
            )
        _, world_size = _rank_and_world_size()
        built_for = getattr(self.contrastive_loss, "world_size", world_size)
        if built_for != world_size:
            raise HeadwordError(
                f"the contrastive loss was built for {built_for} process(es) but {world_size} are running; "
                "build the loss after init_process_group"
            )
        bias = {} if output.logit_bias is None else {"logit_bias": output.logit_bias}
        loss: Tensor = self.contrastive_loss(
            output.image_features, output.text_features, output.logit_scale, **bias
        )
        return self.contrastive_weight * loss


def _rank_and_world_size() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
