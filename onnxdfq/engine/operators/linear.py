"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxdfq.engine.operators.registry import operator


@operator("MatMul", since=1)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha * a' [M, K] @ b' [K, N] + beta * c, where c broadcasts to [M, N]."""
    a = a.T if transA else a
    if transB and alpha == beta == 1.0 and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    product = a @ (b.T if transB else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


@operator("Det", since=11)
def determinant(x: Tensor) -> Tensor:
    return torch.linalg.det(x)


@operator("Einsum", since=12)
def einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)
