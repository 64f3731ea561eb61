"""all-MiniLM-L6-v2 without the slow imports: the same tensors through the same kernels as transformers' BERT.

Importing sentence-transformers and transformers costs several seconds, more than everything else a short
command does. This is BERT's forward pass (post-norm transformer encoder) in plain torch; a test holds its
embeddings bit-equal to those of sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headword.encoders.hub import check_folder
from headword.encoders.text import PROBES, TokenEncoder, token_fingerprint
from headword.files import load_tensors, read_json, read_text


class _Layer(nn.Module):
    """Self-attention and a two-layer MLP, each followed by residual and LayerNorm (Devlin et al., 2019)."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.out_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, length, width = x.shape
        split = (n, length, self.heads, width // self.heads)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [N, heads, L, width / heads]
        x = self.out_norm(self.out(attended.transpose(1, 2).reshape(n, length, width)) + x)
        y: Tensor = self.norm(self.down(F.gelu(self.up(x))) + x)
        return y


# The published checkpoint's names and ours, replaced in this order.
_RENAMED = {
    "embeddings.LayerNorm": "norm",
    "embeddings.word_embeddings": "word",
    "embeddings.position_embeddings": "position",
    "embeddings.token_type_embeddings": "segment",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "out_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}


class MiniLM(nn.Module):
    """Token ids → unit-norm sentence embeddings `[N, 384]`: BERT, mean over the tokens, normalised.

    From a sentence-transformers folder of a BERT model: `config.json`, `model.safetensors`, `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        super().__init__()
        config = check_folder(folder)
        limits = read_json(folder / "sentence_bert_config.json")
        self.max_length: int = limits["max_seq_length"]
        self.tokenizer = Tokenizer.from_str(read_text(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.max_length)
        self.pad_id: int = config["pad_token_id"]
        self.tokenizer.enable_padding(pad_id=self.pad_id, pad_token="[PAD]")
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        tensors = {}
        for name, tensor in load_tensors(folder / "model.safetensors").items():
            if not name.startswith("pooler.") and not name.endswith("position_ids"):
                # "encoder.layer.3.attention.self.query.weight" → "layers.3.query.weight"
                for theirs, ours in _RENAMED.items():
                    name = name.replace(theirs, ours)
                tensors[name] = tensor
        # An empty one would be initialised, even on "meta", which imports torch's compiler: two seconds.
        self.word, self.position, self.segment = (
            nn.Embedding.from_pretrained(tensors[f"{table}.weight"])  # type: ignore[no-untyped-call]
            for table in ("word", "position", "segment")
        )
        with torch.device("meta"):
            self.norm = nn.LayerNorm(width, eps=eps)
            self.layers = nn.ModuleList(
                _Layer(width, config["intermediate_size"], config["num_attention_heads"], eps)
                for _ in range(config["num_hidden_layers"])
            )
        self.load_state_dict(tensors, assign=True)
        self.eval().requires_grad_(False)

    def token_fingerprint(self) -> str:
        """sha256 over what the tokenizer does, and the pooling."""
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch(list(PROBES))]
        return token_fingerprint(ids, vocabulary=self.tokenizer.get_vocab(), pooling="mean")

    def tokens(self) -> TokenEncoder:
        """Itself and its tokenizer."""
        return TokenEncoder(self.tokenizer.to_str, self.embed_tokens, self.max_length, self.pad_id, "[PAD]")

    def lengths(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, none of them padding."""
        return [sum(e.attention_mask) for e in self.tokenizer.encode_batch(texts)]

    def forward(self, texts: list[str]) -> Tensor:
        """N texts, tokenised and padded to the longest, → unit-norm float32 `[N, 384]`."""
        encoded = self.tokenizer.encode_batch(texts)
        device = self.word.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)  # [N, L]
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)
        return self.embed_tokens(ids, mask, padded=not bool(mask.all()))

    def embed_tokens(self, ids: Tensor, mask: Tensor, *, padded: bool = True) -> Tensor:
        """Token ids `[N, L]` and a mask, 0 where they pad, if any do → unit-norm float32 `[N, 384]`."""
        x = self.word(ids) + self.segment.weight[0] + self.position.weight[: ids.shape[1]]
        x = self.norm(x)  # [N, L, width]
        keep = mask.bool()[:, None, None, :].expand(-1, 1, ids.shape[1], -1) if padded else None
        for layer in self.layers:
            x = layer(x, keep)
        real = mask.unsqueeze(-1).to(x)
        return F.normalize((x * real).sum(dim=1) / real.sum(dim=1).clamp_min(1e-9), dim=1)
