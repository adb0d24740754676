"""Attention and RotaryEmbedding against ONNX Runtime, and what it does not run against arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)
N, HEADS, Q, K, D, V = 2, 4, 3, 5, 6, 8


def f(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def qkv(kv_heads: int = HEADS) -> list[np.ndarray]:
    return [f(N, HEADS, Q, D), f(N, kv_heads, K, D), f(N, kv_heads, K, V)]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scale": 0.7},
        {"softcap": 0.8},
        {"is_causal": 1},
        {"is_causal": 1, "softcap": 0.8},
        {"softmax_precision": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
def test_attention(attributes: dict[str, Any], kv_heads: int, node_agrees: Callable[..., None]) -> None:
    node_agrees("Attention", *qkv(kv_heads), opset=23, **attributes)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("causal", [0, 1])
def test_heads_in_the_last_axis(kv_heads: int, causal: int, node_agrees: Callable[..., None]) -> None:
    inputs = [array.transpose(0, 2, 1, 3).reshape(N, array.shape[2], -1) for array in qkv(kv_heads)]
    node_agrees("Attention", *inputs, opset=23, q_num_heads=HEADS, kv_num_heads=kv_heads, is_causal=causal)


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"softcap": 0.8}], ids=str)
@pytest.mark.parametrize("shape", [(Q, K), (HEADS, Q, K), (N, 1, Q, K), (N, HEADS, Q, K)], ids=str)
@pytest.mark.parametrize("boolean", [False, True], ids=["added", "boolean"])
def test_mask(
    attributes: dict[str, Any], shape: tuple[int, ...], boolean: bool, node_agrees: Callable[..., None]
) -> None:
    mask = f(*shape)
    mask[..., 0] = 1  # with a causal mask too every query sees a key
    node_agrees("Attention", *qkv(), mask > 0 if boolean else mask, opset=23, **attributes)


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_past(attributes: dict[str, Any], masked: bool, node_agrees: Callable[..., None]) -> None:
    past = [f(N, 2, 7, D), f(N, 2, 7, V)]
    mask = f(Q, K + 7) if masked else None
    node_agrees("Attention", *qkv(2), mask, *past, opset=23, outputs=3, **attributes)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores(mode: int, node_agrees: Callable[..., None]) -> None:
    past = [f(N, 2, 7, D), f(N, 2, 7, V)]
    node_agrees("Attention", *qkv(2), f(Q, K + 7), *past, opset=23, outputs=4, qk_matmul_output_mode=mode, softcap=0.8)


@pytest.mark.parametrize("attributes", [{}, {"softcap": 0.8}], ids=str)
def test_valid_keys(attributes: dict[str, Any], node_agrees: Callable[..., None]) -> None:
    lengths = np.array([K, 2], np.int64)
    node_agrees("Attention", *qkv(2), None, None, None, lengths, opset=24, **attributes)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("ids", [False, True], ids=["caches", "positions"])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(interleaved: int, size: int, ids: bool, flat: bool, node_agrees: Callable[..., None]) -> None:
    half = (size or D) // 2
    angle = f(9, half) if ids else f(N, Q, half)
    inputs = [f(N, Q, HEADS * D) if flat else f(N, HEADS, Q, D), np.cos(angle), np.sin(angle)]
    inputs += [random.integers(0, 9, (N, Q))] if ids else []
    node_agrees(
        "RotaryEmbedding",
        *inputs,
        opset=23,
        interleaved=interleaved,
        rotary_embedding_dim=size,
        num_heads=HEADS,
    )


def parsed(body: str) -> torch.nn.Module:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 25]>
        graph (double[2, 4, 3, 6] q, double[2, 2, 5, 6] k, double[2, 2, 5, 8] v) => (double y) <
          bool[3, 5] mask = {{ {", ".join("1" if value else "0" for value in [1, 1, 0, 1, 0] + [0] * 5 + [1] * 5)} }},
          double[3, 5] added = {{ {", ".join(f"{value:.3f}" for value in random.standard_normal(15))} }}
        > {{ {body} }}"""
    )
    return lower(model)


def double_qkv() -> list[torch.Tensor]:
    return [torch.from_numpy(array).double().requires_grad_() for array in qkv(2)]


@pytest.mark.parametrize(
    "body",
    [
        "y = Attention (q, k, v)",
        "y = Attention <is_causal = 1> (q, k, v, added)",
        "y = Attention <softcap = 0.8, is_causal = 1> (q, k, v, added)",
        "y = Attention (q, k, v, mask)",
        "y = Attention <softcap = 0.8> (q, k, v, mask)",
        "y = Attention <left_window_size = 1, right_window_size = 0> (q, k, v)",
        "a, b, c, y = Attention <qk_matmul_output_mode = 3> (q, k, v, mask)",
    ],
)
def test_gradient_agrees_with_finite_differences(body: str) -> None:
    assert torch.autograd.gradcheck(parsed(body), double_qkv())


@pytest.mark.parametrize("attributes", ["", "<softcap = 0.8>"])
def test_a_query_that_sees_no_key_gives_zero(attributes: str) -> None:
    (y,) = parsed(f"y = Attention {attributes} (q, k, v, mask)")(*double_qkv())
    assert (y[:, :, 1] == 0).all()
    assert (y[:, :, 0] != 0).all()


@pytest.mark.parametrize("capped", ["", ", softcap = 1000000.0"])
def test_windows_count_from_the_place_of_the_query(capped: str) -> None:
    """ONNX Runtime knows no windows yet; a cap that high changes nothing but the way of computing."""
    query, key, value = double_qkv()
    (y,) = parsed(f"y = Attention <left_window_size = 1, right_window_size = 2 {capped}> (q, k, v)")(query, key, value)
    for place in range(Q):
        seen = slice(max(place - 1, 0), place + 3)
        (alone,) = parsed("y = Attention (q, k, v)")(query[:, :, place : place + 1], key[:, :, seen], value[:, :, seen])
        torch.testing.assert_close(y[:, :, place : place + 1], alone)


def test_gradient_of_rotary_embedding() -> None:
    body = "y = RotaryEmbedding <interleaved = 1, rotary_embedding_dim = 4> (q, cos, sin, ids)"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23]> graph (double[2, 4, 3, 6] q) => (double y) <
          double[2, 2] cos = {{0.5, 0.1, 0.2, 0.3}}, double[2, 2] sin = {{0.5, -0.1, 0.2, 0.6}},
          int64[2, 3] ids = {{0, 1, 0, 1, 1, 1}} > {{ {body} }}"""
    )
    gm = lower(model)
    assert not list(gm.parameters())
    assert torch.autograd.gradcheck(gm, [double_qkv()[0]])
