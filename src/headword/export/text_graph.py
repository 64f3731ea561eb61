"""The text side as one module: tokens in, embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headword.encoders import TextEncoder
from headword.encoders.text import PROBES, TokenEncoder
from headword.errors import HeadwordError
from headword.export.graph import ModelParts
from headword.export.onnx_file import check_agreement


class TextGraph(nn.Module):
    """Token ids `[N, T]`, padded → unit-norm embeddings `[N, D]`.

    Of words by themselves: what WordNet calls them a kind of, which `DualEncoder.encode_text` reads too, is
    not in the file.
    """

    def __init__(self, model: ModelParts) -> None:
        super().__init__()
        self.tokens = check_text(model.text)
        self.encoder, self.aligner = model.text.source.model, model.aligner

    def forward(self, text: Tensor) -> Tensor:
        """Encode and map; padding is told by its id."""
        ids = text.long()
        mask = (ids != self.tokens.pad_id).long()
        return self.aligner.text(self.tokens.embed(ids, mask)).float()

    def example(self) -> Tensor:
        """Ids `[2, 6]` of any tokens, the second text shorter."""
        ids = torch.arange(1, 7, dtype=torch.int32).repeat(2, 1)
        ids[1, 4:] = self.tokens.pad_id
        return ids


def check_text(text: TextEncoder) -> TokenEncoder:
    """An encoder's two halves.

    Raises:
        HeadwordError: if it has no tokenizer.json, or cannot be taken apart there.
    """
    if text.source.tokens is None:
        raise HeadwordError(
            f"the text encoder {text.name} has no tokenizer.json that another program could read; its text "
            "side is not exported"
        )
    return text.source.tokens


def text_agreement(model: ModelParts, opened: Any, tokenizer: Path) -> float:
    """The largest difference of an exported text side from headword's, on texts that tell tokenizers apart.

    Raises:
        HeadwordError: if it is too large.
    """
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    texts = list(PROBES)
    ids = np.array([one.ids for one in reader.encode_batch(texts)], dtype=np.int32)
    (got,) = opened.run(None, {"text": ids})
    with torch.inference_mode():
        expected = model.aligner.text(model.text.encode(texts).to(model.aligner.centre_)).float()
    return check_agreement(got, expected.numpy(), "text embeddings")
