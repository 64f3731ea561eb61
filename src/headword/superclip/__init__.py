"""SuperCLIP: open_clip models trained to name the words of their captions."""

from headword.superclip.model import SuperCLIP, SuperCLIPOutput, TokenHead
from headword.superclip.objective import SuperCLIPLoss, SuperCLIPLosses
from headword.superclip.tokens import Tokens, tokenize

__all__ = [
    "SuperCLIP",
    "SuperCLIPLoss",
    "SuperCLIPLosses",
    "SuperCLIPOutput",
    "TokenHead",
    "Tokens",
    "tokenize",
]
