"""Captions to token ids, with the number of captions that were too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from headword.errors import HeadwordError


class Tokens(NamedTuple):
    """Token ids of captions."""

    ids: Tensor
    """`[B, L]` int64."""
    n_truncated: int
    """How many captions lost words at the context length. They keep their end token."""


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
