"""SuperCLIP: open_clip models trained to name the words of their captions."""

from headword.training.objective import SuperCLIPLoss, SuperCLIPLosses
from headword.training.superclip import SuperCLIP, SuperCLIPOutput, TokenHead
from headword.training.tokens import Tokens, tokenize

__all__ = [
    "SuperCLIP",
    "SuperCLIPLoss",
    "SuperCLIPLosses",
    "SuperCLIPOutput",
    "TokenHead",
    "Tokens",
    "tokenize",
]
