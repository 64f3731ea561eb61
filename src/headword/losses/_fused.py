"""Linear layer and soft cross-entropy in one operator, in chunks of rows, gradients and all.

A dense version keeps logits, log-softmax, targets and their gradients alive, each `[B, V]`. Here one chunk of
logits `[rows, V]` is all that ever exists, as in Liger's and Apple's fused cross-entropies: its gradient is
multiplied into those of input, weight and bias at once, which the backward pass only scales.
"""

# No `from __future__ import annotations`: torch 2.4 reads the operator's schema off the real types.
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # how large a chunk of float32 logits may be, in bytes
MIN_CHUNK_ROWS = 128  # with fewer, adding up the weight's gradient costs more than multiplying it out


def chunk_rows_for(batch: int, vocab_size: int) -> int:
    """Rows a chunk: within `CHUNK_BYTES` where the vocabulary allows, and alike in all chunks."""
    most = max(MIN_CHUNK_ROWS, CHUNK_BYTES // (4 * vocab_size))
    chunks = -(-batch // most)
    return -(-batch // max(chunks, 1))


def fused_token_loss(
    features: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, shares: Tensor, chunk_rows: int | None = None
) -> Tensor:
    """Mean over rows of −Σ_j shares_ij · log softmax(features @ weight.T + bias)_i,ids_ij, in chunks.

    −Σ ŷ log softmax(z) = (Σ ŷ) logsumexp(z) − Σ ŷ z: only the captions' own ids are ever looked up. They are
    `[B, L]` int64 in [0, V), and their shares the target ŷ: 0 where there is none, added up where an id
    stands twice. Features are `[B, width]`, the layer `[V, width]` and `[V]`. Products run in autocast's
    type where it is on, else in the inputs' own; all sums, and the scalar result, in float32 (float64 for
    float64 inputs).
    """
    device = features.device.type
    dtype = torch.promote_types(features.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    grad = torch.is_grad_enabled()
    chunk_rows = chunk_rows or chunk_rows_for(len(features), len(weight))
    want_input = grad and features.requires_grad
    want_head = grad and (weight.requires_grad or bias.requires_grad)
    loss: Tensor
    loss, *_ = _token_loss(features, weight, bias, ids, shares, dtype, chunk_rows, want_input, want_head)
    return loss


@torch.library.custom_op("headword::token_loss", mutates_args=())
def _token_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ids: Tensor,
    shares: Tensor,
    dtype: torch.dtype,
    chunk_rows: int,
    want_input: bool,
    want_head: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and its gradients for input, weight and bias; an operator, so a compiler takes it whole."""
    batch, vocab_size = len(features), len(weight)
    wide = torch.promote_types(dtype, torch.float32)  # sums over V and B run in this
    # float16 would round a logit's gradient, about 1/(B V), to nothing before a loss scaler could act.
    back = torch.float32 if dtype == torch.float16 else dtype

    losses = features.new_empty(batch, dtype=wide)
    grad_input = torch.empty_like(features) if want_input else features.new_empty(0)
    grad_weight = torch.empty_like(weight, dtype=wide) if want_head else weight.new_empty(0)
    grad_bias = torch.zeros_like(bias, dtype=wide) if want_head else bias.new_empty(0)
    buffer = features.new_empty((min(chunk_rows, batch), vocab_size), dtype=wide)
    with torch.autocast(features.device.type, enabled=False):  # the types below are chosen, not to be cast
        W, b = weight.to(dtype), bias.to(wide)
        W_back = W if back == dtype else weight.to(back)
        shares = shares.to(wide)
        for start in range(0, batch, chunk_rows):
            rows = slice(start, min(start + chunk_rows, batch))
            x, share, columns = features[rows].to(dtype), shares[rows], ids[rows]
            z = buffer[: len(x)]  # [rows, V], overwritten in place: logits, their exponentials, then gradient
            if wide == dtype:
                torch.addmm(b, x, W.T, out=z)
            else:
                torch.add(x @ W.T, b, out=z)
            # Dropped positions point at id 0: `where`, because 0 · ±inf would be nan.
            hits = torch.where(share != 0, share * z.gather(1, columns), 0).sum(dim=1)
            mass = share.sum(dim=1, keepdim=True)
            peak = z.amax(dim=1, keepdim=True)
            total = z.sub_(peak).exp_().sum(dim=1, keepdim=True)
            losses[rows] = torch.where(mass != 0, mass * (peak + total.log()), 0).squeeze(1) - hits
            if not (want_input or want_head):
                continue
            # The gradient of a row is `factor` · z from here on; the factors go to the products' small sides.
            factor = mass / (batch * total)
            z.scatter_add_(1, columns, -share * (total / mass.where(mass != 0, 1)))
            g = z.to(back)
            if want_input:
                grad_input[rows] = (g @ W_back) * factor
            if want_head:
                x = (x * factor).to(back)
                if back == wide:
                    torch.addmm(grad_weight, g.T, x, beta=float(start > 0), out=grad_weight)
                elif start:
                    grad_weight += g.T @ x
                else:
                    grad_weight.copy_(g.T @ x)
                grad_bias += factor.squeeze(1) @ z
    return losses.mean(), grad_input, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


@_token_loss.register_fake
def _shapes(features: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _ids, _shares, dtype, _chunk_rows, want_input, want_head = rest
    return (
        features.new_empty((), dtype=torch.promote_types(dtype, torch.float32)),
        torch.empty_like(features) if want_input else features.new_empty(0),
        torch.empty_like(weight) if want_head else weight.new_empty(0),
        torch.empty_like(bias) if want_head else bias.new_empty(0),
    )


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.want_input, ctx.want_head = inputs[-2:]


def _scale_gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    kept: tuple[Tensor, Tensor, Tensor] = ctx.saved_tensors
    # In place where nothing will read them again: a scaled copy would hold the head's gradient, the largest
    # tensor left, twice. Looking at the factor costs nothing on the CPU; elsewhere it would wait.
    if _graph_is_kept():
        scaled = [k * grad for k in kept]
    elif grad.device.type == "cpu" and grad == 1:
        scaled = list(kept)
    else:
        scaled = [k.mul_(grad) for k in kept]
    wanted = (ctx.want_input, ctx.want_head, ctx.want_head)
    return (*(one if want else None for one, want in zip(scaled, wanted, strict=True)), *(None,) * 6)


def _graph_is_kept() -> bool:
    """Whether this backward may be repeated (`retain_graph`). PyTorch cannot be asked in public: else yes."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or torch.compiler.is_compiling() or bool(ask())


_token_loss.register_autograd(_scale_gradients, setup_context=_keep_gradients)
