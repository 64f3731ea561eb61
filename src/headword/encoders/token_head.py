"""The token head of a trained SuperCLIP or SuperClass model: beside the model, and as a classifier's head."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headword.encoders import clip_folder
from headword.encoders.vision import Labels, VisionSource
from headword.errors import HeadwordError
from headword.files import expand, load_tensors
from headword.head.names import ClassName

COUNTS = "document_frequency"  # `[V]`, how many captions of the training had each token
SHORTEST_PIECE = 3  # letters from which a piece of a word is taken for a word


class TokenHead(nn.Module):
    """LayerNorm, then Linear to a logit a token; the loss applies the linear layer itself, in chunks."""

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


class TokenClassifier(nn.Module):
    """An image tower and the rows of its token head that are words: images → a logit a word."""

    def __init__(self, tower: nn.Module, tensors: Mapping[str, Tensor], tokens: Tensor) -> None:
        from headword.encoders.patch_tokens import patch_reader

        super().__init__()
        self._read, width = patch_reader(tower)
        self.tower = tower
        self.head = TokenHead(width, len(tokens))
        rows = {name: t[tokens] if name.startswith("linear.") else t for name, t in tensors.items()}
        rows.pop(COUNTS, None)
        self.head.load_state_dict(rows)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` → logits `[N, words]`."""
        _, patches = self._read(self.tower, images)
        logits: Tensor = self.head.linear(self.head(patches))
        return logits


def token_classifier(folder: str) -> VisionSource:
    """A trained model that kept its token head, as a classifier of the words in its training's captions."""
    root = expand(folder).resolve()
    file = root / clip_folder.TOKEN_HEAD
    if not file.is_file():
        raise HeadwordError(
            f"{root} has no {file.name}: train with --keep-token-head, or make the model of a run again with "
            "headword train --export RUN --keep-token-head"
        )
    clip = clip_folder.trained(root / clip_folder.COPY)
    tensors = load_tensors(file)
    words = token_texts(clip.tokenizer, len(tensors["linear.bias"]), whole=True)
    counts = tensors.get(COUNTS)
    tokens = [token for token, word in enumerate(words) if word and (counts is None or counts[token] > 0)]
    config = clip.model.visual.preprocess_cfg
    source = clip_folder.vision_source(
        "tokens", clip, clip_folder.evaluation_transform(config), clip_folder.as_settings(config)
    )
    source.id, source.tower = str(root), False
    source.model = TokenClassifier(clip.model.visual, tensors, torch.tensor(tokens))
    source.labels = Labels(tuple(ClassName(words[token]) for token in tokens), "the tokenizer's whole words")

    def save(target: Path) -> str:
        for part in (clip_folder.COPY, clip_folder.TOKEN_HEAD):
            copy: Any = shutil.copytree if (root / part).is_dir() else shutil.copy
            (target / "vision").mkdir(exist_ok=True)
            copy(root / part, target / "vision" / part)
        return "vision"

    source.save = save
    return source


def token_texts(tokenizer: Any, vocab_size: int, *, whole: bool = False) -> list[str]:
    """What each token says; "" for special tokens, punctuation, digits, bytes and short pieces of words.

    With `whole`, "" for every piece of a word, where the tokenizer tells them from words.
    """
    decoder = getattr(tokenizer, "tokenizer", tokenizer)  # Hugging Face's within open_clip's
    if not hasattr(decoder, "decode"):
        raise HeadwordError("token texts need the model's tokenizer, one that decodes ids")
    special = set(getattr(tokenizer, "all_special_ids", ()) or getattr(decoder, "all_special_ids", ()))
    size = min(int(getattr(tokenizer, "vocab_size", vocab_size)), vocab_size)
    words, pieces = [""] * vocab_size, [""] * vocab_size
    for token in set(range(size)) - special:
        text = decoder.decode([token])
        word = text.strip()
        if word.isalpha() and text != word:
            words[token] = word.lower()
        elif word.isalpha() and len(word) >= SHORTEST_PIECE:
            pieces[token] = word.lower()
    if whole and any(words):
        return words
    return [word or piece for word, piece in zip(words, pieces, strict=True)]
