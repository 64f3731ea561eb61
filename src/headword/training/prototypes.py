"""A token layer that starts from recycled prototypes instead of noise.

A recycled head maps any text to a direction in the image features' space. The token layer wants one such
direction for each token of the vocabulary: row v is the token's own text through text encoder and aligner.
Rows are centred (what all tokens share tells none apart) and scaled to the standard deviation of the usual
start, width^−½, so that learning rates keep their meaning. Tokens that say nothing by themselves keep their
random row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.training.superclip import SuperCLIP

SHORTEST_PIECE = 3
"""Letters from which a piece of a word is taken for a word."""


def init_token_head(model: SuperCLIP, dual: DualEncoder, *, features: Tensor | None = None) -> int:
    """Set the token layer's rows to prototypes, in place; returns how many rows were set.

    The layer reads LayerNorm(mean patch token). Where the image tower's trunk is the recycled classifier and
    its head reads the mean of the grid (EfficientNet, ResNet), the mean patch token *is* the feature of the
    recycled head. The norm then subtracts the feature's mean over channels and divides by its deviation: one
    factor for all tokens, and one direction, that of all channels alike, which no row is told apart by.
    Classifiers with a norm between the pooling and the head (ConvNeXt) fit less exactly.

    Args:
        model: with its tokenizer; new, its token layer still at its random start.
        dual: recycled from the model's own backbone, with an aligner whose shared space is the image's.
        features: `[N, width]`, the layer's input for some images (`model(images)["token_features"]`): the
            bias is set so that their mean gives each set row the logit 0. Image features have a large mean in
            common, which would else favour the same tokens in every picture.
    """
    layer = model.token_head.linear
    width = layer.in_features
    if dual.dim != width or dual.vision.dim != width:
        raise HeadwordError(
            f"the token layer reads {width} features, but the recycled model's classifier gives "
            f"{dual.vision.dim} and its shared space has {dual.dim}; recycle the backbone of this image "
            "tower, with an aligner into the image space"
        )
    texts = token_texts(model.tokenizer, model.vocab_size)
    tokens = [token for token, text in enumerate(texts) if text]
    rows = prototype_rows(dual, [texts[token] for token in tokens]).to(layer.weight)
    with torch.no_grad():
        layer.weight[tokens] = rows
        if features is not None:
            layer.bias[tokens] = -rows @ features.detach().to(rows).mean(dim=0)
    return len(tokens)


def prototype_rows(dual: DualEncoder, texts: Sequence[str]) -> Tensor:
    """Texts → rows `[V, d]` in the image features' space, of mean 0 over the rows and standard deviation d^−½
    over all entries.
    """
    rows = dual.encode_text(texts)
    centred: Tensor = rows - rows.mean(dim=0)
    scaled: Tensor = centred * (rows.shape[1] ** -0.5 / centred.std())
    return scaled


def token_texts(tokenizer: Any, vocab_size: int) -> list[str]:
    """What each token of the vocabulary says, lower case without blanks; "" for those that say nothing.

    Those are special tokens, punctuation, digits by themselves, bytes, and pieces of words (no word boundary)
    under `SHORTEST_PIECE` letters.
    """
    decoder = getattr(tokenizer, "tokenizer", tokenizer)  # Hugging Face's within open_clip's
    if not hasattr(decoder, "decode"):
        raise HeadwordError("token texts need the model's tokenizer, one that decodes ids")
    special = set(getattr(tokenizer, "all_special_ids", ()) or getattr(decoder, "all_special_ids", ()))
    size = min(int(getattr(tokenizer, "vocab_size", vocab_size)), vocab_size)
    texts = [""] * vocab_size
    for token in set(range(size)) - special:
        text = decoder.decode([token])
        word = text.strip()
        bounded = text != word
        if word.isalpha() and (bounded or len(word) >= SHORTEST_PIECE):
            texts[token] = word.lower()
    return texts
