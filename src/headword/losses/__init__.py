"""Losses on tensors: token classification. The contrastive ones are open_clip's."""

from headword.losses.token_classification import (
    TokenClassificationLoss,
    TokenRules,
    TokenSets,
    TokenTargets,
)

__all__ = ["TokenClassificationLoss", "TokenRules", "TokenSets", "TokenTargets"]
