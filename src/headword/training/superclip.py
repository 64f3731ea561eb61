"""SuperCLIP (Zhao et al., NeurIPS 2025): an open_clip model with a head that names the words of the
caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headword.errors import HeadwordError
from headword.losses import TokenRules
from headword.training.towers import patch_reader


class Tokens(NamedTuple):
    """Token ids of captions."""

    ids: Tensor
    """`[B, L]` int64."""
    n_truncated: int
    """How many captions lost words at the context length. They keep their end token."""


class TokenHead(nn.Module):
    """LayerNorm, then Linear to one logit for each token of the vocabulary. The loss applies the linear
    layer itself, in chunks."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, vocab_size)
        nn.init.normal_(self.linear.weight, std=width**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Mean patch token `[B, width]` → the linear layer's input `[B, width]`."""
        normed: Tensor = self.norm(patches.to(self.norm.weight.dtype))
        return normed


class SuperCLIP(nn.Module):
    """An open_clip model plus a token head on the mean of its patch tokens; the model itself stays as it is.

        model = SuperCLIP(open_clip.create_model("ViT-B-16"), open_clip.get_tokenizer("ViT-B-16"))
        task = SuperCLIPTask(model)
        losses = task.training_forward({"images": images, "texts": model.tokenize(captions).ids})
        losses["loss"].backward()
        torch.save(model.export(), "clip.pt")  # a plain open_clip checkpoint, without the head

    Args:
        clip_model: from open_clip's factory, with any of its image and text towers (CLIP, CustomTextCLIP,
            SigLIP).
        tokenizer: the model's own, from `open_clip.get_tokenizer`. Needed for `tokenize` and the token loss.

    Raises:
        HeadwordError: if the image tower has no patch tokens, the text tower no vocabulary, or the tokenizer
            more ids than the vocabulary.
    """

    clip: Any
    """The wrapped model, an `nn.Module` of open_clip's."""

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
        """Features of a batch of any size, one included.

        Args:
            images: `[B, 3, H, W]`, preprocessed.
            texts: `[B, L]` token ids; leave them out when nothing contrastive is trained (SuperClass).

        Returns:
            "image_features" `[B, D]` and, of texts, "text_features" `[B, D]`, both of unit norm;
            "token_features" `[B, width]`, mean patch token after the head's LayerNorm: what its linear layer
            takes.
        """
        embedding, patches = self._read(self.clip.visual, images)
        features = {"image_features": F.normalize(embedding, dim=-1)}
        if texts is not None:
            features["text_features"] = self.clip.encode_text(texts, normalize=True)
        return {**features, "token_features": self.token_head(patches)}

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """The wrapped model's image embeddings `[B, D]`, without the head: for open_clip's evaluation
        code."""
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
        """A copy of the wrapped model's state, which open_clip loads strictly and which gives bit-equal
        embeddings."""
        return {name: tensor.detach().clone() for name, tensor in self.clip.state_dict().items()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the towers' activations in the backward pass, where the towers can."""
        self.clip.set_grad_checkpointing(enable)

    @torch.no_grad()
    def clamp_logit_scale_(self, largest: float = 100.0) -> None:
        """Hold exp(logit scale) within [1, largest], as CLIP does after every step."""
        self.clip.logit_scale.clamp_(0, torch.tensor(largest).log().item())

    def needed_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            HeadwordError: if the model has none.
        """
        if self.tokenizer is None:
            raise HeadwordError(
                "this model has no tokenizer; build SuperCLIP(clip_model, tokenizer) with its own"
            )
        return self.tokenizer


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tokens:
    """Tokenize as the model's own tokenizer does, and count the captions it had to cut.

    An empty caption is allowed: its row holds special tokens only, and the token loss leaves it out.

    Args:
        tokenizer: one of open_clip's.
        captions: B texts.

    Raises:
        HeadwordError: for a single string, no captions, or a caption that is no string.
    """
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) for c in captions):
        raise HeadwordError("captions must be a list of at least one string")
    ids = tokenizer(list(captions))
    length = ids.shape[1]
    # Only rows filled to the end (or to the one place that padding with the end token hides) can have lost
    # something.
    pad = _padding_id(tokenizer)
    full = (ids[:, -2:] == pad).sum(dim=1) < 2 if length > 1 else ids[:, 0] != pad
    long = [i for i in full.nonzero().flatten().tolist() if _full_length(tokenizer, captions[i]) > length]
    return Tokens(ids, len(long))


def _padding_id(tokenizer: Any) -> int:
    if hasattr(tokenizer, "eot_token_id"):
        return 0
    pad = tokenizer.tokenizer.pad_token_id
    return -1 if pad is None else int(pad)


def _full_length(tokenizer: Any, caption: str) -> int:
    """How many positions a caption would take if there were no limit, special tokens included."""
    if hasattr(tokenizer, "eot_token_id"):
        return len(tokenizer.encode(caption)) + 2
    if getattr(tokenizer, "tokenizer_mode", ""):  # "clips": start, words, end, class
        return len(tokenizer.tokenizer(tokenizer.clean_fn(caption), add_special_tokens=False).input_ids) + 3
    return len(tokenizer.tokenizer(_cleaned(tokenizer, caption)).input_ids)


def _cleaned(tokenizer: Any, caption: str) -> str:
    """The caption as the tokenizer's own call cleans it first."""
    if hasattr(tokenizer, "clean_fn"):
        return str(tokenizer.clean_fn(caption))
    from open_clip.tokenizer import basic_clean, canonicalize_text  # SigLipTokenizer

    return str(canonicalize_text(basic_clean(caption)))
