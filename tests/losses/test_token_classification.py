"""The token loss against a naive dense version, the reference's counting, and what a user can get wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast

from headword.errors import HeadwordError
from headword.losses import TokenClassificationLoss, TokenRules
from headword.losses._fused import _token_loss, chunk_rows_for, fused_token_loss

V, WIDTH, PAD, START, END = 40, 8, 0, 38, 39  # as in CLIP: padding shares id 0 with a word


def captions(*rows: list[int], length: int = 10) -> Tensor:
    """Word ids → what a tokenizer gives: start, words, end, padding."""
    return torch.tensor([[START, *row, END] + [PAD] * (length - 2 - len(row)) for row in rows])


def head(
    batch: int, dtype: torch.dtype = torch.float32, seed: int = 0, vocab: int = V
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [(batch, WIDTH), (vocab, WIDTH), (vocab,)]
    x, W, b = (torch.randn(*s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes)
    return x, W, b


def build(**settings: object) -> TokenClassificationLoss:
    return TokenClassificationLoss(V, excluded_ids=[START, END], end_id=END, **settings)  # type: ignore[arg-type]


def naive(x: Tensor, W: Tensor, b: Tensor, words: list[list[int]], idf: Tensor) -> Tensor:
    """The paper's formula on dense tensors, captions as lists of word ids."""
    targets = torch.zeros(len(words), len(W), dtype=x.dtype)
    for i, row in enumerate(words):
        for v in set(row):
            targets[i, v] = idf[v]
        if row:
            targets[i] /= targets[i].sum()
    return -(targets * F.log_softmax(x @ W.T + b, dim=1)).sum(dim=1).mean()


def naive_idf(seen: list[list[int]]) -> Tensor:
    n = sum(1 for row in seen if row)
    df = torch.tensor([sum(v in row for row in seen) for v in range(V)])
    return ((n + 1) / (df + 0.5)).log()


def close(a: Tensor, b: Tensor, relative: float = 1e-4) -> bool:
    return bool((a - b).norm() <= relative * b.norm() + 1e-8)


rows = st.lists(st.integers(0, START - 1), max_size=8)


@given(
    seen=st.lists(rows, max_size=5),
    now=st.lists(rows, min_size=1, max_size=6),
    chunk=st.integers(1, 7),
    mode=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_naive_version_with_repeats_and_padding(
    seen: list[list[int]], now: list[list[int]], chunk: int, mode: bool
) -> None:
    loss = build(chunk_rows=chunk, uniform=mode, weight=0.7)
    if seen:
        loss.update(captions(*seen))
    mine, theirs = head(len(now)), head(len(now))
    got = loss(*mine, captions(*now))
    want = 0.7 * naive(*theirs, now, torch.ones(V) if mode else naive_idf(seen + now))
    assert abs(got - want) < 1e-5
    got.backward()
    want.backward()
    for a, b in zip(mine, theirs, strict=True):
        assert a.grad is not None
        assert close(a.grad, b.grad if b.grad is not None else torch.zeros_like(b))


def test_equals_the_references_counting_over_20_steps() -> None:
    """The public code: padding, start and end count; df is a sum of batch means; counting starts at 1."""
    loss = TokenClassificationLoss(V, reference_counting=True)
    g = torch.Generator().manual_seed(1)
    df, batch = torch.zeros(1, V, dtype=torch.float64), 6
    for n in range(1, 21):
        lengths = torch.randint(0, 9, (batch,), generator=g).tolist()
        texts = captions(*(torch.randint(0, START, (k,), generator=g).tolist() for k in lengths))
        mine, theirs = head(batch, seed=n), head(batch, seed=n)
        targets = torch.zeros(batch, V).scatter_(1, texts, 1.0)
        df += targets.sum(dim=0, keepdim=True) / batch
        targets = targets * ((n + 1 / batch) / (df + 1 / batch)).log().float()
        z = theirs[0] @ theirs[1].T + theirs[2]
        want = -(F.log_softmax(z, dim=1) * F.normalize(targets, p=1, dim=1)).sum(dim=1).mean()
        got = loss(*mine, texts)
        assert abs(got - want) < 1e-5
        got.backward()
        want.backward()
        assert all(close(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))  # type: ignore[arg-type]
    assert loss.batches == 20


def test_first_step_at_batch_one() -> None:
    mine, one = head(1), captions([3, 3, 7])
    loss = build()(*mine, one)
    loss.backward()
    assert loss > 0
    assert all(t.grad is not None and t.grad.norm() > 1e-3 for t in mine)
    # The reference's known defect, kept in parity mode: every weight is log(2 / 2).
    assert TokenClassificationLoss(V, reference_counting=True)(*head(1), one) == 0


def test_gradients_in_float64() -> None:
    loss = build()
    texts = captions([1, 2, 2], [], [0, 5], [9])
    loss.update(texts)
    ids, shares = loss.targets(texts)
    x, W, b = head(4, torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, W, b: fused_token_loss(x, W, b, ids, shares.double(), 3), (x, W, b)
    )


def test_a_kept_graph_gives_the_same_gradient_twice() -> None:
    x, W, b = head(3)
    loss = 3 * build()(x, W, b, captions([1], [2, 4], [3]))
    first = torch.autograd.grad(loss, (x, W, b), retain_graph=True)
    saved = [g.clone() for g in first]
    second = torch.autograd.grad(loss, (x, W, b))
    assert all(torch.equal(a, c) and torch.equal(b, c) for a, b, c in zip(first, second, saved, strict=True))


def test_frozen_parts_get_no_gradient() -> None:
    x, W, b = head(2)
    texts = captions([1], [2])
    build()(x, W.detach(), b.detach(), texts).backward()
    x2, W2, b2 = head(2)
    build()(x2.detach(), W2, b2, texts).backward()
    full = head(2)
    build()(*full, texts).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, full[0].grad)  # type: ignore[arg-type]
    assert torch.equal(W2.grad, full[1].grad)  # type: ignore[arg-type]
    with torch.no_grad():
        assert not build()(*full, texts).requires_grad


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    x, W, b = head(64, vocab=300)
    with torch.no_grad(), Watch():
        _token_loss._init_fn(
            x, W, b, torch.zeros(64, 3).long(), torch.ones(64, 3) / 3, torch.float32, 16, True, True
        )
    assert largest == max(16 * 300, W.numel())
    assert chunk_rows_for(4096, 49408) * 49408 * 4 <= 64 * 2**20
    assert chunk_rows_for(1, 49408) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reduces_in_float32(dtype: torch.dtype) -> None:
    texts = captions([1, 2], [4, 4, 6], [0])
    exact = head(3)
    want = build()(*exact, texts)
    want.backward()
    cast = head(3)
    with torch.autocast("cpu", dtype):
        got = build()(*cast, texts)
    got.backward()
    pure = tuple(t.detach().to(dtype).requires_grad_() for t in exact)
    alone = build()(*pure, texts)
    alone.backward()
    for value in (got, alone):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(want.item(), rel=1e-2)
    for e, c, p in zip(exact, cast, pure, strict=True):
        assert c.grad.dtype == torch.float32  # type: ignore[union-attr]
        assert p.grad.dtype == dtype  # type: ignore[union-attr]
        assert close(c.grad, e.grad, 2e-2)  # type: ignore[arg-type]
        assert close(p.grad.float(), e.grad, 2e-2)  # type: ignore[union-attr,arg-type]


def test_float16_keeps_small_gradients() -> None:
    """1 / (B V) lies below float16's smallest number here; the head must not lose it."""
    vocab, batch = 30_000, 2
    x, W = torch.ones(batch, WIDTH).half().requires_grad_(), torch.zeros(vocab, WIDTH).requires_grad_()
    b = torch.zeros(vocab, requires_grad=True)
    loss = TokenClassificationLoss(vocab, uniform=True)
    with torch.autocast("cpu", torch.float16):
        loss(x, W, b, torch.ones(batch, 1, dtype=torch.long)).backward()
    assert W.grad is not None
    assert W.grad[5, 0].item() == pytest.approx(1 / vocab, rel=1e-3)


def test_compiles_whole() -> None:
    loss, plain = build(), build()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for step in range(2):
        texts = captions([1, 2, step], [4, 4, 6], [])
        mine, theirs = head(3, seed=step), head(3, seed=step)
        got, want = compiled(*mine, texts), plain(*theirs, texts)
        got.backward()
        want.backward()
        assert torch.allclose(got, want)
        assert all(torch.allclose(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))  # type: ignore[arg-type]
    assert torch.equal(loss.document_frequency, plain.document_frequency)


def test_counting_is_separate_from_the_loss() -> None:
    loss, texts = build(), captions([1, 1, 2], [2], [])
    loss(*head(3), texts, update=False)
    assert loss.documents == 0
    loss(*head(3), texts)
    assert loss.documents == 2  # the empty caption is no document
    assert loss.document_frequency[[1, 2, 3]].tolist() == [1, 2, 0]
    loss.eval()(*head(3), texts)
    assert loss.documents == 2
    loss(*head(3), texts, update=True)
    loss.update(texts)
    assert loss.documents == 6


def test_several_losses_before_one_backward() -> None:
    """Gradient accumulation: counting for the second micro-batch must not disturb the first one's graph."""
    loss, twin = build(), build()
    mine, theirs = head(2), head(2)
    parts = [captions([1, 2], [3]), captions([2], [5])]
    torch.stack([loss(*mine, part) for part in parts]).sum().backward()
    for part in parts:
        twin(*theirs, part).backward()
    assert all(torch.allclose(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))  # type: ignore[arg-type]


def test_state_is_saved_and_resumed() -> None:
    loss = build()
    loss.update(captions([1, 2], [2]))
    state = loss.state_dict()
    assert {k: v.dtype for k, v in state.items()} == {
        "document_frequency": torch.int64,
        "documents": torch.int64,
    }
    fresh = build()
    fresh.load_state_dict(state)
    texts = captions([1, 2, 3])
    assert torch.equal(fresh.targets(texts).shares, loss.targets(texts).shares)
    assert fresh.bfloat16().documents.dtype == torch.int64  # no count is lost to a cast
    with pytest.raises(RuntimeError, match="batch_frequency"):
        build(reference_counting=True).load_state_dict(state)
    assert not build(uniform=True).state_dict()


def test_captions_without_words_add_nothing() -> None:
    mine = head(3)
    loss = build()
    two_of_three = loss(*mine, captions([1], [], [2]), update=False)
    assert loss.token_sets(captions([1], [], [START])).n_empty == 2
    x, W, b = mine
    alone = build()(x[[0, 2]], W, b, captions([1], [2]), update=False)
    assert two_of_three.item() == pytest.approx(alone.item() * 2 / 3, rel=1e-6)
    nothing = loss(*mine, captions([], [], []))
    nothing.backward()
    assert nothing == 0
    assert all(t.grad is not None and not t.grad.any() for t in mine)
    assert loss.documents == 0


def test_non_finite_logits() -> None:
    x, W, b = head(2)
    texts = captions([1, 2], [3])

    def value(id: int, logit: float, **settings: bool) -> float:
        bias = b.detach().clone()
        bias[id] = logit
        return build(**settings)(x, W, bias, texts).item()  # type: ignore[no-any-return]

    assert value(5, float("nan")) != value(5, float("nan"))
    assert value(5, float("inf")) != value(5, float("inf"))
    assert value(1, float("-inf")) == float("inf")  # a word of a caption, impossible
    assert 0 < value(0, float("-inf")) < float("inf")  # a word of no caption
    with pytest.raises(HeadwordError, match="not finite"):
        value(5, float("nan"), check_finite=True)


def test_padding_is_told_from_the_exclamation_mark() -> None:
    tokenizer = SimpleTokenizer(context_length=12)
    loss = TokenClassificationLoss.for_tokenizer(tokenizer)
    ids, keep = loss.token_sets(tokenizer(["a cat!", "a cat", "!\x00", ""]))
    bang = tokenizer.encode("!")
    words = [sorted(i[k].tolist()) for i, k in zip(ids, keep, strict=True)]
    assert words[0] == sorted(tokenizer.encode("a cat!"))
    assert words[1] == sorted(tokenizer.encode("a cat"))
    assert words[3] == []
    # "!" inside a run of marks is id 0, the padding's own.
    assert 0 in tokenizer.encode("!\u00a1")
    marked = loss.token_sets(tokenizer(["!\u00a1"]))
    assert marked.keep.sum() == len(set(tokenizer.encode("!\u00a1")))
    assert bang[0] in words[0]


def hf(tmp_path, pad: str = "[PAD]") -> PreTrainedTokenizerFast:  # type: ignore[no-untyped-def]
    vocab = {t: i for i, t in enumerate(["[PAD]", "</s>", "[UNK]", "[CLS]", "a", "cat", "dog"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A </s>", special_tokens=[("[CLS]", 3), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token=pad,
        cls_token="[CLS]",
        sep_token="</s>",
        eos_token="</s>",
    )
    fast.save_pretrained(tmp_path)
    return fast


def test_transformers_tokenizers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inner = hf(tmp_path)
    wrapped = HFTokenizer(str(tmp_path), context_length=6)
    loss = TokenClassificationLoss.for_tokenizer(wrapped, vocab_size=10)
    sets = loss.token_sets(wrapped(["a cat cat zebra", ""]))
    assert sets.ids[sets.keep].tolist() == [4, 5]
    assert TokenRules.of(inner).excluded_ids == {0, 1, 2, 3}
    inner.add_special_tokens({"pad_token": "[NEW]"})
    rules = TokenRules.of(inner)
    assert (rules.vocab_size, rules.excluded_ids) == (8, {1, 2, 3, 7})

    stripped = HFTokenizer(str(tmp_path), context_length=6, strip_sep_token=True)
    sets = loss.token_sets(stripped(["dog"]))
    assert sets.ids[sets.keep].tolist() == [6]

    siglip = SigLipTokenizer.__new__(SigLipTokenizer)  # its constructor downloads; padding is the end token
    siglip.tokenizer, siglip.context_length = hf(tmp_path, pad="</s>"), 6
    sets = TokenClassificationLoss.for_tokenizer(siglip).token_sets(siglip(["a dog"]))
    assert sets.ids[sets.keep].tolist() == [4, 6]


def test_users_mistakes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x, W, b = head(2)
    texts = captions([1], [2])
    with pytest.raises(HeadwordError, match="tokenizer has 49,408 ids but the head has 40"):
        TokenClassificationLoss.for_tokenizer(SimpleTokenizer(), vocab_size=V)
    with pytest.raises(HeadwordError, match="cannot read special tokens off a str"):
        TokenRules.of("ViT-B-16")
    with pytest.raises(HeadwordError, match=r"30 outputs.*vocabulary of 40"):
        build()(x, W[:30], b[:30], texts)
    with pytest.raises(HeadwordError, match=r"features must be \[B, 8\]"):
        build()(x[:, :4], W, b, texts)
    with pytest.raises(HeadwordError, match="as many captions as images"):
        build()(x, W, b, texts[:1])
    with pytest.raises(HeadwordError, match="at least one"):
        build()(x[:0], W, b, texts[:0])
    with pytest.raises(HeadwordError, match="token id 40 is outside the head's 40 outputs"):
        build()(x, W, b, texts.clamp(min=V))
    with pytest.raises(HeadwordError, match="matrix of integers"):
        build().update(texts.float())
    with pytest.raises(HeadwordError, match="excluded ids 3…99"):
        TokenClassificationLoss(V, excluded_ids=[99, 3])
    with pytest.raises(HeadwordError, match="finite weight"):
        build(weight=-1.0)
    with pytest.raises(HeadwordError, match="leave out one"):
        build(uniform=True, reference_counting=True)
    with pytest.raises(HeadwordError, match="chunk_rows"):
        build(chunk_rows=0)
