"""Losses on tensors: token classification. The contrastive ones are open_clip's."""

from headword.losses.token_classification import TokenClassificationLoss, TokenTargets
from headword.losses.token_sets import TokenRules, TokenSets

__all__ = ["TokenClassificationLoss", "TokenRules", "TokenSets", "TokenTargets"]
