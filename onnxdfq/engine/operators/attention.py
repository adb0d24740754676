"""Scaled dot product attention, and rotary position embeddings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import torch_dtype


@operator("Attention", since=23)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: Literal[0, 1, 2, 3] = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:
    """query [N, heads, Q, D], key [N, kv_heads, K, D], value [N, kv_heads, K, V] -> [N, heads, Q, V]; then key and
    value with the past before them, and the scores [N, heads, Q, K] at the stage that the mode says.

    With three axes the heads are part of the last one: [N, Q, heads * D]. A query that sees no key gives 0.
    """
    flat = query.ndim == 3
    if flat:
        query = query.unflatten(-1, (q_num_heads, -1)).transpose(1, 2)
        key, value = (x.unflatten(-1, (kv_num_heads, -1)).transpose(1, 2) for x in (key, value))
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    present = key, value
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))

    right = 0 if is_causal else right_window_size
    bias = _bias(query, key.shape[2], attn_mask, nonpad_kv_seqlen, past, left_window_size, right)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    precision = query.dtype if softmax_precision is None else torch_dtype(softmax_precision)
    if outputs < 4 and softcap == 0 and precision == query.dtype:
        y, scores = F.scaled_dot_product_attention(query, key, value, bias, scale=scale), query
    else:
        weights, stages = _weights(query, key, bias, scale, softcap, precision)
        y, scores = weights @ value, stages[qk_matmul_output_mode]
    y = y.transpose(1, 2).flatten(2) if flat else y
    return (y, *present, scores)[:outputs]


@operator("RotaryEmbedding", since=23, frozen=("cos_cache", "sin_cache"))
def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """x [N, heads, S, D] or [N, S, heads * D]; caches [N, S, R / 2], or [P, R / 2] with position_ids [N, S].

    Pairs among the first R elements of each head are turned by the angle of their position; R is D by default.
    """
    flat = x.ndim == 3
    if flat:
        x = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    cos, sin = cos_cache[:, None], sin_cache[:, None]
    size = rotary_embedding_dim or x.shape[-1]
    first = x[..., :size]
    a, b = (first[..., 0::2], first[..., 1::2]) if interleaved else first.chunk(2, -1)
    turned = [a * cos - b * sin, a * sin + b * cos]
    first = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    y = torch.cat([first, x[..., size:]], -1)
    return y.transpose(1, 2).flatten(2) if flat else y


def _bias(
    query: Tensor, keys: int, mask: Tensor | None, lengths: Tensor | None, past: int, left: int, right: int
) -> Tensor | None:
    """What is added to the scores: the mask, and -inf where a query must not see a key. None if every one sees all.

    lengths [N]: how many keys are valid; the queries are the last of these. left, right: how many keys before and
    after its own position a query sees; -1 stands for all.
    """
    count = query.shape[2]
    position = torch.arange(keys, device=query.device)
    lengths = None if lengths is None else lengths.reshape(-1, 1, 1, 1)
    first = past if lengths is None else lengths - count
    ahead = position - first - torch.arange(count, device=query.device)[:, None]
    hidden = [] if lengths is None else [position >= lengths]
    hidden += [ahead < -left] if left >= 0 else []
    hidden += [ahead > right] if right >= 0 else []
    if mask is None and not hidden:
        return None
    bias = query.new_zeros((count, keys))
    if mask is not None:
        mask = mask if mask.is_floating_point() else bias.new_zeros(()).where(mask, -math.inf)
        bias = bias + F.pad(mask.to(bias), (0, keys - mask.shape[-1]), value=-math.inf)
    for condition in hidden:
        bias = torch.where(condition, -math.inf, bias)
    return bias


def _weights(
    query: Tensor, key: Tensor, bias: Tensor | None, scale: float, softcap: float, precision: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """The weight of each key, and the scores: raw, capped, masked, as weights."""
    root = math.sqrt(scale)
    raw = (query * root) @ (key * root).transpose(-1, -2)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    if bias is None:
        masked, weights = capped, capped.to(precision).softmax(-1)
    else:
        masked = capped + bias
        # Where all is -inf softmax has no value, and its gradient would spoil all others.
        blind = (bias == -math.inf).all(-1, keepdim=True)
        weights = masked.masked_fill(blind, 0.0).to(precision).softmax(-1).masked_fill(blind, 0.0)
    weights = weights.to(query.dtype)
    return weights, [raw, capped, masked, weights]
