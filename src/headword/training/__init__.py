"""Training CLIP, SuperCLIP and SuperClass: a model of open_clip's, a task with its losses, a trainer."""

from headword.encoders.token_head import TokenHead
from headword.training.objective import CLIPTask, SuperClassTask, SuperCLIPTask, TrainingTask
from headword.training.superclip import SuperCLIP, Tokens, tokenize

__all__ = [
    "CLIPTask", "SuperCLIP", "SuperCLIPTask", "SuperClassTask", "TokenHead", "Tokens", "TrainingTask",
    "tokenize",
]  # fmt: skip
