"""What an image costs at a level: operations on bits, as hardware that has them would do.

    BitOPs = sum over layers of  multiplications * bits of a weight * bits of what the layer reads

(the measure of the papers on dynamic quantization; numbers that stay float count with the bits of their type).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxdfq.verify.kernels import multiplications
from passes.plan import QuantPlan


def bit_operations(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], plan: QuantPlan | None, float_bits: int = 32
) -> float:
    """Of one call of the float ``model`` with inputs of these shapes, quantized by ``plan``; None for not at all.
    Layers whose shapes are not known count nothing."""
    tensors = plan.tensors if plan is not None else {}

    def bits(name: str) -> int:
        return tensors[name].bits if name in tensors else float_bits

    return float(
        sum(
            macs * bits(layer.input[1]) * bits(layer.input[0])
            for layer, macs in multiplications(model, shapes)
            if macs is not None
        )
    )
