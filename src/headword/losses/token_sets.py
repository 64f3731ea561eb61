"""Which of a caption's token ids are words to predict: each id once, without padding and special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from headword.errors import HeadwordError


class TokenSets(NamedTuple):
    """The distinct words of B captions, in tensors of the captions' own shape, so that no size depends on
    the data."""

    ids: Tensor
    """`[B, L]` int64, the words of each caption; 0 at positions that do not count."""
    keep: Tensor
    """`[B, L]` bool, True where `ids` holds a word, and at one position only for each word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """A tokenizer's vocabulary, and which of its ids are not words."""

    vocab_size: int
    """V: ids lie in [0, V)."""
    excluded_ids: frozenset[int] = frozenset()
    """Ids that never count: start, end, padding and unknown tokens."""
    end_id: int | None = None
    """Where this id first stands, the caption ends: neither it nor anything after it counts. It tells
    open_clip's padding, which is id 0, from the "!" of CLIP's BPE, which is id 0 too."""

    @classmethod
    def of(cls, tokenizer: Any, *, vocab_size: int | None = None) -> Self:
        """Read them off a tokenizer.

        Args:
            tokenizer: open_clip's `SimpleTokenizer`, `HFTokenizer` or `SigLipTokenizer`, or a transformers
                tokenizer.
            vocab_size: size of the head, when it is larger than the tokenizer's (padded embeddings).

        Raises:
            HeadwordError: when it is none of these, or when the tokenizer knows more ids than the head has.
        """
        if hasattr(tokenizer, "eot_token_id") and hasattr(tokenizer, "all_special_ids"):
            size, special, end = tokenizer.vocab_size, set(tokenizer.all_special_ids), tokenizer.eot_token_id
        else:
            # transformers: padding has an id of its own, or the end token's, and is among the special ids.
            inner = getattr(tokenizer, "tokenizer", tokenizer)
            if not (hasattr(inner, "all_special_ids") and hasattr(inner, "vocab_size")):
                raise HeadwordError(
                    f"cannot read special tokens off a {type(tokenizer).__name__}; "
                    "give vocab_size, excluded_ids and end_id yourself"
                )
            size, special, end = inner.vocab_size, set(inner.all_special_ids), None
            if inner.pad_token_id is not None:
                special.add(inner.pad_token_id)
            if getattr(tokenizer, "strip_sep_token", False):
                special.add(0)  # open_clip writes 0 over the separator
        if vocab_size is None:  # special tokens added to a transformers tokenizer lie beyond its own size
            vocab_size = max(size, 1 + max(special, default=0))
        if size > vocab_size:
            raise HeadwordError(
                f"the tokenizer has {size:,} ids but the head has {vocab_size:,} outputs; "
                "take the tokenizer that belongs to the model"
            )
        # Added tokens beyond the head (T5's extra ids) are never written by a caption.
        excluded = frozenset(int(i) for i in special if 0 <= i < vocab_size)
        return cls(vocab_size=vocab_size, excluded_ids=excluded, end_id=end)

    def mask(self) -> Tensor:
        """`[V]` bool, True for the excluded ids."""
        ids = sorted(self.excluded_ids)
        if ids and not 0 <= ids[0] <= ids[-1] < self.vocab_size:
            raise HeadwordError(
                f"excluded ids {ids[0]}…{ids[-1]} do not all lie in a vocabulary of {self.vocab_size:,}"
            )
        mask = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask[ids] = True
        return mask


def find_words(token_ids: Tensor, excluded: Tensor, end_id: int | None) -> tuple[Tensor, Tensor]:
    """Which positions of B captions hold words, repeats too: int64 ids `[B, L]` and a mask `[B, L]`.

    Args:
        token_ids: `[B, L]` integers as the text tower gets them.
        excluded: `[V]` bool, True for ids that never count.
        end_id: see `TokenRules.end_id`.

    Raises:
        HeadwordError: if the shape is wrong or an id lies outside [0, V). Ids are looked at on the CPU only,
            where it costs no synchronisation; elsewhere the text tower's embedding stops them.
    """
    vocab_size = len(excluded)
    if token_ids.ndim != 2 or token_ids.is_floating_point():
        shape = f"{token_ids.dtype} {list(token_ids.shape)}"
        raise HeadwordError(f"token ids must be a [captions, length] matrix of integers, got {shape}")
    ids = token_ids.long()
    if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
        low, high = (int(v) for v in ids.aminmax())
        if low < 0 or high >= vocab_size:
            raise HeadwordError(
                f"token id {low if low < 0 else high} is outside the head's {vocab_size:,} outputs; "
                "the captions were tokenized for another model"
            )
    dropped = excluded[ids]
    if end_id is not None:
        dropped = dropped | ((ids == end_id).cumsum(dim=1) > 0)
    return ids, ~dropped


def token_sets(token_ids: Tensor, excluded: Tensor, end_id: int | None) -> TokenSets:
    """The distinct words of each caption; arguments and errors as in `find_words`."""
    ids, is_word = find_words(token_ids, excluded, end_id)
    vocab_size = len(excluded)
    ordered = ids.masked_fill(~is_word, vocab_size).sort(dim=1).values
    keep = ordered < vocab_size
    keep[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    return TokenSets(ordered.masked_fill(~keep, 0), keep)
