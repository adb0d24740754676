"""Gradients of inputs and parameters against finite differences, in double precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from onnxdfq.engine.lower import lower

random = np.random.default_rng(0)


GRADIENTS = {
    "conv_same": "y = Conv <auto_pad = 'SAME_LOWER', strides = [2, 1]> (x, w)",
    "conv_transpose": "y = ConvTranspose <strides = [2, 2], pads = [0, 1, 1, 0]> (x, w)",
    "average_pool": "y = AveragePool <kernel_shape = [3, 2], pads = [0, 0, 2, 1]> (x)",
    "batch_norm": "y = BatchNormalization (x, c, c, c, v)",
    "instance_norm": "y = InstanceNormalization (x, c, c)",
    "layer_norm": "a, m, s = LayerNormalization <axis = 1> (x, c1) y = Mul (a, m)",
    "resize_linear": "y = Resize <mode = 'linear'> (x, , scales)",
    "resize_cubic": "y = Resize <mode = 'cubic'> (x, , scales)",
    "pad_reflect": "y = Pad <mode = 'reflect'> (x, pads)",
    "slice_backwards": "y = Slice (x, last, first, axes, back)",
    "depth_to_space": "a = Concat <axis = 1> (x, x) y = DepthToSpace <blocksize = 2> (a)",
    "lrn": "y = LRN <size = 3, alpha = 0.5> (x)",
    "gelu": "y = Gelu (x)",
    "matmul": "t = Transpose <perm = [0, 1, 3, 2]> (x) y = MatMul (x, t)",
    "reduce_prod": "y = ReduceProd (x, axes)",
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    body = GRADIENTS[name].replace("'", '"')
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        graph (double[1, 2, 4, 3] x) => (double y) <
          double[2, 2, 2, 3] w = {{ {", ".join(f"{value:.3f}" for value in random.standard_normal(24))} }},
          double[2] c = {{0.5, -1.5}}, double[2] v = {{0.3, 2.0}}, double[2, 1, 1] c1 = {{0.5, -1.5}},
          float[4] scales = {{1, 1, 1.5, 2}}, int64[8] pads = {{0, 0, 2, 1, 0, 0, 1, 2}},
          int64[1] last = {{-1}}, int64[1] first = {{-100}}, int64[1] axes = {{2}}, int64[1] back = {{-2}}
        > {{ {body} }}"""
    )
    gm = lower(model, input_shapes={"x": (1, 2, 4, 3)})
    x = torch.from_numpy(random.standard_normal((1, 2, 4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: gm(value)[0], (x,))
    names, weights = [*dict(gm.named_parameters())], tuple(gm.parameters())

    def of_weights(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(gm, dict(zip(names, values, strict=True)), (x,))[0]

    assert not weights or torch.autograd.gradcheck(of_weights, weights)
