"""SuperCLIP (Zhao et al., NeurIPS 2025): an open_clip model with a head for the words of the caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headword.encoders.patch_tokens import patch_reader
from headword.encoders.token_head import TokenHead
from headword.errors import HeadwordError
from headword.losses import TokenRules


class Tokens(NamedTuple):
    """Token ids of captions."""

    ids: Tensor  # `[B, L]` int64
    n_truncated: int  # how many captions lost words at the context length. They keep their end token


class SuperCLIP(nn.Module):
    """An open_clip model plus a token head on the mean of its patch tokens; the model itself stays as it is.

        model = SuperCLIP(open_clip.create_model("ViT-B-16"), open_clip.get_tokenizer("ViT-B-16"))
        task = SuperCLIPTask(model)
        losses = task.training_forward({"images": images, "texts": model.tokenize(captions).ids})
        losses["loss"].backward()
        torch.save(model.export(), "clip.pt")  # a plain open_clip checkpoint, without the head

    Any of open_clip's image and text towers do (CLIP, CustomTextCLIP, SigLIP). The model's own tokenizer is
    needed for `tokenize` and the token loss.

    Raises:
        HeadwordError: if the image tower has no patch tokens, the text tower no vocabulary, or the tokenizer
            more ids than the vocabulary.
    """

    clip: Any  # the wrapped model, an `nn.Module` of open_clip's

    def __init__(self, clip_model: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        visual = getattr(clip_model, "visual", None)
        text = getattr(clip_model, "text", None)  # absent from CLIP, whose text tower lies open
        vocab_size = getattr(clip_model, "vocab_size", None) or getattr(text, "vocab_size", None)
        if not isinstance(visual, nn.Module) or not vocab_size:
            raise HeadwordError(
                f"a {type(clip_model).__name__} has no image tower or no vocabulary; "
                "build one with open_clip.create_model"
            )
        self._read, width = patch_reader(visual)
        self.vocab_size = int(vocab_size)
        self.tokenizer = tokenizer
        if tokenizer is not None:
            TokenRules.of(tokenizer, vocab_size=self.vocab_size)
        self.clip = clip_model
        self.token_head = TokenHead(width, self.vocab_size).to(next(clip_model.parameters()).device)

    def forward(self, images: Tensor, texts: Tensor | None = None) -> dict[str, Tensor]:
        """Features of images `[B, 3, H, W]` and, where anything contrastive is trained, token ids `[B, L]`.

        "image_features" and "text_features" `[B, D]` are of unit norm; "token_features" `[B, width]` is the
        mean patch token after the head's LayerNorm: what its linear layer takes.
        """
        embedding, patches = self._read(self.clip.visual, images)
        features = {"image_features": F.normalize(embedding, dim=-1)}
        if texts is not None:
            features["text_features"] = self.clip.encode_text(texts, normalize=True)
        return {**features, "token_features": self.token_head(patches)}

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """The wrapped model's image embeddings `[B, D]`: for open_clip's evaluation code."""
        features: Tensor = self.clip.encode_image(images, normalize=normalize)
        return features

    def encode_text(self, texts: Tensor, normalize: bool = False) -> Tensor:
        """The wrapped model's text embeddings `[B, D]`."""
        features: Tensor = self.clip.encode_text(texts, normalize=normalize)
        return features

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids `[B, L]` of captions, and how many were cut at the context length (see `tokenize`)."""
        return tokenize(self.needed_tokenizer(), captions)

    def export(self) -> dict[str, Tensor]:
        """A copy of the wrapped model's state, which open_clip loads strictly, for bit-equal embeddings."""
        return {name: tensor.detach().clone() for name, tensor in self.clip.state_dict().items()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the towers' activations in the backward pass, where the towers can."""
        self.clip.set_grad_checkpointing(enable)

    @torch.no_grad()
    def clamp_logit_scale_(self, largest: float = 100.0) -> None:
        """Hold exp(logit scale) within [1, largest], as CLIP does after every step."""
        self.clip.logit_scale.clamp_(0, torch.tensor(largest).log().item())

    def needed_tokenizer(self) -> Any:
        """The tokenizer, refused where there is none."""
        if self.tokenizer is None:
            line = "this model has no tokenizer; build SuperCLIP(clip_model, tokenizer) with its own"
            raise HeadwordError(line)
        return self.tokenizer


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tokens:
    """Token ids `[B, L]` as the model's own tokenizer gives them, and how many captions it had to cut.

    An empty caption is allowed: its row holds special tokens only, and the token loss leaves it out.

    Raises:
        HeadwordError: for a single string, no captions, or a caption that is no string.
    """
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) for c in captions):
        raise HeadwordError("captions must be a list of at least one string")
    ids = tokenizer(list(captions))
    # With one place more, a caption that was cut has another word where its end token stands here.
    longer = tokenizer(list(captions), context_length=ids.shape[1] + 1)
    return Tokens(ids, int((longer[:, :-1] != ids).any(dim=1).sum()))
