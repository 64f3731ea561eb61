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
from headword.training.objective import SuperCLIPLoss
from headword.training.tokens import Tokens, tokenize
from headword.training.towers import patch_reader


class SuperCLIPOutput(NamedTuple):
    """What a forward pass gives and `SuperCLIPLoss` takes."""

    image_features: Tensor
    """`[B, D]`, unit norm."""
    text_features: Tensor | None
    """`[B, D]`, unit norm; None when no texts were given."""
    logit_scale: Tensor
    """Scalar, exp of the parameter."""
    logit_bias: Tensor | None
    """Scalar, for models with one (SigLIP)."""
    token_features: Tensor
    """`[B, width]`, mean patch token after the head's LayerNorm: the input of its linear layer."""
    token_weight: Tensor
    """`[V, width]`, the linear layer's weight."""
    token_bias: Tensor
    """`[V]`, the linear layer's bias."""


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
        loss = model.loss()
        tokens = model.tokenize(captions)
        losses = loss(model(images, tokens.ids), tokens.ids)
        losses.total.backward()
        torch.save(model.export(), "clip.pt")  # a plain open_clip checkpoint, without the head

    Args:
        clip_model: from open_clip's factory, with any of its image and text towers (CLIP, CustomTextCLIP,
            SigLIP).
        tokenizer: the model's own, from `open_clip.get_tokenizer`. Needed for `tokenize` and `loss`.

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

    def forward(self, images: Tensor, texts: Tensor | None = None) -> SuperCLIPOutput:
        """Features of a batch of any size, one included.

        Args:
            images: `[B, 3, H, W]`, preprocessed.
            texts: `[B, L]` token ids; leave them out when nothing contrastive is trained (SuperClass).
        """
        embedding, patches = self._read(self.clip.visual, images)
        head = self.token_head.linear
        return SuperCLIPOutput(
            image_features=F.normalize(embedding, dim=-1),
            text_features=None if texts is None else self.clip.encode_text(texts, normalize=True),
            logit_scale=self.clip.logit_scale.exp(),
            logit_bias=self.clip.logit_bias,
            token_features=self.token_head(patches),
            # Views: DistributedDataParallel, looking for unused parameters, sees only outputs with a graph.
            token_weight=head.weight.view_as(head.weight),
            token_bias=head.bias.view_as(head.bias),
        )

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
        return tokenize(self._tokenizer(), captions)

    def loss(
        self, *, contrastive_weight: float = 1.0, contrastive_loss: nn.Module | None = None, **settings: Any
    ) -> SuperCLIPLoss:
        """The loss that fits this model and tokenizer, on the model's device; call it after the process
        group is up.

        Args:
            contrastive_weight: λ_contrastive; 0 is SuperClass.
            contrastive_loss: open_clip's `SigLipLoss` for models with a logit bias, else its `ClipLoss`,
                when not given.
            settings: the rest goes to `TokenClassificationLoss` (`weight`, `uniform`, `reference_counting`,
                …).
        """
        loss = SuperCLIPLoss.for_tokenizer(
            self._tokenizer(),
            vocab_size=self.vocab_size,
            sigmoid=self.clip.logit_bias is not None,
            contrastive_weight=contrastive_weight,
            contrastive_loss=contrastive_loss,
            **settings,
        )
        return loss.to(self.token_head.linear.weight.device)

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

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise HeadwordError(
                "this model has no tokenizer; build SuperCLIP(clip_model, tokenizer) with its own"
            )
        return self.tokenizer
