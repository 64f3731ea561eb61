"""Token classification: the image must name the words of its caption, distinct ids without special ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import Self

from headword.errors import HeadwordError
from headword.losses._fused import fused_token_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """A tokenizer's vocabulary, and which of its ids are not words."""

    vocab_size: int  # V: ids lie in [0, V)
    excluded_ids: frozenset[int] = frozenset()  # ids that never count: start, end, padding and unknown tokens
    end_id: int | None = None
    """Where this id first stands, the caption ends: neither it nor anything after it counts. It tells
    open_clip's padding, which is id 0, from the "!" of CLIP's BPE, which is id 0 too."""

    @classmethod
    def of(cls, tokenizer: Any, *, vocab_size: int | None = None) -> Self:
        """Read them off one of open_clip's tokenizers or of transformers'.

        `vocab_size` is the head's, where that is larger than the tokenizer's (padded embeddings).
        """
        if hasattr(tokenizer, "eot_token_id") and hasattr(tokenizer, "all_special_ids"):
            size, special, end = tokenizer.vocab_size, set(tokenizer.all_special_ids), tokenizer.eot_token_id
        else:
            # transformers: padding has an id of its own, or the end token's, and is among the special ids.
            inner = getattr(tokenizer, "tokenizer", tokenizer)
            if not (hasattr(inner, "all_special_ids") and hasattr(inner, "vocab_size")):
                raise HeadwordError(
                    f"cannot read special tokens off a {type(tokenizer).__name__}; give vocab_size, "
                    "excluded_ids and end_id yourself"
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


class TokenSets(NamedTuple):
    """The distinct words of B captions, in the captions' own shape: no size depends on the data."""

    ids: Tensor  # `[B, L]` int64, the words of each caption; 0 at positions that do not count
    keep: Tensor  # `[B, L]` bool, True where `ids` holds a word, and at one position only for each word

    @property
    def n_empty(self) -> Tensor:
        """How many captions have no word: a scalar int64 on their device."""
        return (~self.keep.any(dim=1)).sum()


class TokenTargets(NamedTuple):
    """The soft targets of B captions."""

    ids: Tensor  # `[B, L]` int64, the words of each caption; 0 where there is none
    shares: Tensor  # `[B, L]` float32, ŷ at those words: rows sum to 1, or to 0 without words


class TokenClassificationLoss(nn.Module):
    """λ · (1/B) Σ_i −Σ_v ŷ_iv log softmax(z_i)_v with z = features @ weight.T + bias (SuperCLIP, Zhao et al.,
    NeurIPS 2025).

    ŷ_i is spread over the distinct words v of caption i in proportion to w_v, from running document
    frequencies (N captions seen so far, df_v of them with the word v):

    * by default w_v = log((N + 1) / (df_v + ½)), the inverse document frequency of BM25 (Robertson &
      Zaragoza 2009) as Lucene computes it; unlike the paper's log(N / (1 + df_v)) it is positive for every
      df ≤ N, so that the very first caption already has a gradient.
    * `reference_counting=True`: as the authors' public code counts, w_v = log((n + 1/B) / (df_v + 1/B)) with
      n batches seen, df the running sum of batch means averaged over ranks, and B the global batch. With B =
      1 its first step has loss 0.
    * `uniform=True`: w_v = 1; nothing is counted.

    A caption without words (empty, or special tokens only) adds 0 to the sum and stays in B; N leaves it
    out. In distributed runs the counts are summed over ranks, the loss is the mean over the local captions:
    average the gradients, as DDP does.

    The counts are buffers, the same on all ranks; `update` alone writes them, outside autograd, so that
    micro-batches, several forward passes before a backward, and compilation are safe.

    Args:
        vocab_size: V.
        excluded_ids: ids that never count. For exact parity with the reference leave them and `end_id` out:
            its padding, start and end tokens are targets.
        end_id: the first of these ends a caption, see `TokenRules.end_id`.
        weight: λ ≥ 0.
        uniform: see above.
        reference_counting: see above.
        chunk_rows: rows of logits alive at a time; by default as many as fit 64 MiB, at least 128.
        check_finite: raise when the loss is not finite, at a synchronisation a step on accelerators; not
            while compiling. A float16 gradient scaler handles such steps itself.
        process_group: the ranks that share counts; all of them by default.
    """

    excluded: Tensor  # `[V]` bool, not saved: it follows from the settings
    document_frequency: Tensor  # `[V]` int64, captions seen with each word. Absent in reference counting
    documents: Tensor  # scalar int64, captions with words seen so far. Absent in reference counting
    batch_frequency: Tensor  # `[V]` float32, sum of batch means. Reference counting only
    batches: Tensor  # scalar int64, batches seen so far. Reference counting only

    def __init__(
        self,
        vocab_size: int,
        *,
        excluded_ids: Iterable[int] = (),
        end_id: int | None = None,
        weight: float = 1.0,
        uniform: bool = False,
        reference_counting: bool = False,
        chunk_rows: int | None = None,
        check_finite: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 1 or not 0 <= weight < float("inf"):
            raise HeadwordError(f"need vocab_size ≥ 1 and a finite weight ≥ 0, got {vocab_size} and {weight}")
        if uniform and reference_counting:
            line = "uniform weights count nothing; leave out one of uniform and reference_counting"
            raise HeadwordError(line)
        if chunk_rows is not None and chunk_rows < 1:
            raise HeadwordError(f"chunk_rows must be at least 1, got {chunk_rows}")
        self.vocab_size, self.end_id, self.weight = vocab_size, end_id, weight
        self.uniform, self.reference_counting = uniform, reference_counting
        self.chunk_rows, self.check_finite, self.process_group = chunk_rows, check_finite, process_group
        rules = TokenRules(vocab_size=vocab_size, excluded_ids=frozenset(excluded_ids), end_id=end_id)
        self.register_buffer("excluded", rules.mask(), persistent=False)
        if reference_counting:
            self.register_buffer("batch_frequency", torch.zeros(vocab_size))
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        elif not uniform:
            # Integers: a float32 count stops growing at 2^24 captions, float64 does not exist on MPS.
            self.register_buffer("document_frequency", torch.zeros(vocab_size, dtype=torch.int64))
            self.register_buffer("documents", torch.zeros((), dtype=torch.int64))

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, *, vocab_size: int | None = None, **settings: Any) -> Self:
        """The loss for a tokenizer's captions, its special tokens and padding excluded (`TokenRules.of`)."""
        rules = TokenRules.of(tokenizer, vocab_size=vocab_size)
        return cls(rules.vocab_size, excluded_ids=rules.excluded_ids, end_id=rules.end_id, **settings)

    def forward(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        token_ids: Tensor | TokenSets,
        *,
        update: bool | None = None,
    ) -> Tensor:
        """The loss of one batch, a float32 scalar (float64 for float64 features).

        Args:
            features: `[B, width]`, the input of the linear layer.
            weight: `[V, width]` of the linear layer.
            bias: `[V]` of the linear layer.
            token_ids: `[B, L]` captions as the text tower gets them, or what `token_sets` finds in them.
            update: count these captions first; by default in training mode only. Say False where they come
                by a second time (cached gradients, a recomputation). All ranks must agree.

        Raises:
            HeadwordError: for shapes that do not fit, an empty batch, ids outside the vocabulary, and, with
                `check_finite`, a loss that is not finite.
        """
        if weight.shape[0] != self.vocab_size or bias.shape != weight.shape[:1]:
            raise HeadwordError(
                f"the head has {weight.shape[0]:,} outputs and {bias.numel():,} biases, but the loss was "
                f"built for a vocabulary of {self.vocab_size:,}"
            )
        if features.ndim != 2 or features.shape[1] != weight.shape[1]:
            raise HeadwordError(f"features must be [B, {weight.shape[1]}], got {list(features.shape)}")
        sets = token_ids if isinstance(token_ids, TokenSets) else self.token_sets(token_ids)
        if not 0 < len(features) == len(sets.ids):
            counts = f"{len(sets.ids)} and {len(features)}"
            raise HeadwordError(f"need as many captions as images and at least one, got {counts}")
        if self.training if update is None else update:
            self._count(sets)
        ids, shares = self._targets(sets)
        loss = self.weight * fused_token_loss(features, weight, bias, ids, shares, self.chunk_rows)
        if self.check_finite and not torch.compiler.is_compiling() and not bool(loss.isfinite()):
            raise HeadwordError(
                f"the token loss is {loss.item()}: some token logits are not finite; "
                "lower the learning rate, clip gradients, or train in bfloat16 rather than float16"
            )
        return loss

    def token_sets(self, token_ids: Tensor) -> TokenSets:
        """The distinct words of captions `[B, L]`."""
        ids, is_word = _find_words(token_ids, self.excluded, self.end_id)
        ordered = ids.masked_fill(~is_word, self.vocab_size).sort(dim=1).values
        keep = ordered < self.vocab_size
        keep[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        return TokenSets(ordered.masked_fill(~keep, 0), keep)

    def update(self, token_ids: Tensor) -> None:
        """Count captions `[B, L]`, on all ranks together, which must all call it with equally many."""
        self._count(self.token_sets(token_ids))

    def targets(self, token_ids: Tensor) -> TokenTargets:
        """The soft targets ŷ of captions `[B, L]` by the present counts; counts nothing."""
        return self._targets(self.token_sets(token_ids))

    @property
    def world_size(self) -> int:
        """How many ranks share the counts; 1 outside distributed runs."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self.process_group)

    @torch.no_grad()
    def _count(self, sets: TokenSets) -> None:
        if self.uniform:
            return
        alone, words, kept = self.world_size == 1, sets.ids.flatten(), sets.keep.flatten()
        if alone and not self.reference_counting:
            self.document_frequency.index_add_(0, words, kept.long())
            self.documents += len(sets.ids) - sets.n_empty
            return
        # [V + 1]: captions with each word, and with any, in one collective. float32 is exact up to 16 M.
        counts = torch.zeros(self.vocab_size + 1, device=sets.ids.device)
        counts[:-1].index_add_(0, words, kept.float())
        counts[-1] = len(sets.ids) - sets.n_empty
        if not alone:
            dist.all_reduce(counts, group=self.process_group)
        if self.reference_counting:
            # Ranks hold equally many captions: the global batch's sum is the average of the ranks' means.
            self.batch_frequency += counts[:-1] / (len(sets.ids) * self.world_size)
            self.batches += 1
        else:
            self.document_frequency += counts[:-1].long()
            self.documents += counts[-1].long()

    @torch.no_grad()
    def _targets(self, sets: TokenSets) -> TokenTargets:
        ids, keep = sets
        if self.uniform:
            weights = keep.float()
        elif self.reference_counting:
            smooth = 1 / (len(ids) * self.world_size)
            # df ≤ n up to rounding, which must not make a weight negative.
            ratio = (self.batches + smooth) / (self.batch_frequency[ids] + smooth)
            weights = keep * ratio.log().clamp_min(0)
        else:
            weights = keep * ((self.documents + 1) / (self.document_frequency[ids] + 0.5)).log()
        # They sum to 0 without words, or in reference counting if all words are in every caption.
        return TokenTargets(ids, weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12))


def _find_words(token_ids: Tensor, excluded: Tensor, end_id: int | None) -> tuple[Tensor, Tensor]:
    """Int64 ids `[B, L]` of B captions, and which positions hold words, repeats too: a mask `[B, L]`."""
    vocab_size = len(excluded)
    if token_ids.ndim != 2 or token_ids.is_floating_point():
        shape = f"{token_ids.dtype} {list(token_ids.shape)}"
        raise HeadwordError(f"token ids must be a [captions, length] matrix of integers, got {shape}")
    ids = token_ids.long()
    # On the CPU only, where looking costs no synchronisation; elsewhere the text tower's embedding stops it.
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
