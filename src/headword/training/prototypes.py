"""A token layer that starts from recycled prototypes instead of noise: row v is the text of token v."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headword.encoders.token_head import token_texts
from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.training.superclip import SuperCLIP


def init_token_head(model: SuperCLIP, dual: DualEncoder, *, features: Tensor | None = None) -> int:
    """Set the token layer's rows to prototypes, in place; returns how many rows were set.

    The layer reads LayerNorm(mean patch token). Where the trunk is the recycled classifier and its head
    reads the mean of the grid (EfficientNet, ResNet), that token *is* the head's feature, and the norm
    changes it by one factor for all tokens and one direction, that of all channels alike, which no row is
    told apart by. Classifiers with a norm between the pooling and the head (ConvNeXt) fit less exactly.

    `dual` is recycled from the model's own backbone, into the image's space. With `features` `[N, width]`,
    the layer's input for some images, the bias gives each set row the logit 0 at their mean: what image
    features have in common would else favour the same tokens in every picture.
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
    """Texts → centred rows `[V, d]` of standard deviation d^−½, as the layer's usual start has it."""
    rows = dual.encode_text(texts)
    centred: Tensor = rows - rows.mean(dim=0)
    scaled: Tensor = centred * (rows.shape[1] ** -0.5 / centred.std())
    return scaled
