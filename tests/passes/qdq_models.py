"""Small quantized models, written as text with Q and DQ for the two long names.

Constants have short names; a model holds those that its text mentions.
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
from onnx import numpy_helper, parser

RNG = np.random.default_rng(4)


def codes(*shape, low=-60, high=61, dtype=np.int8):
    """Random integers."""
    return RNG.integers(low, high, shape).astype(dtype)


CONSTANTS = {
    # scales and zero-points of activations: i is of int8, u of uint8 around 0, n of uint8 from 0 up
    "s": np.float32(0.02), "t": np.float32(0.05), "i": np.int8(0), "u": np.uint8(128), "n": np.uint8(0),
    # weights of a convolution and of a matrix product, with scales for each channel, and for all of them
    "w": codes(16, 16, 1, 1), "m": codes(16, 16), "sw": np.linspace(0.001, 0.02, 16, dtype=np.float32),
    "wf": np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16, 1, 1),  # in float
    "zw": np.zeros(16, np.int8), "sm": np.float32(0.01), "zm": np.int8(0),
    # the same with 4 and 2 bits, and scales for blocks of 8
    "w4": codes(16, 16, 1, 1, low=-8, high=8, dtype=ml_dtypes.int4), "z4": np.zeros(16, ml_dtypes.int4),
    "w2": codes(16, 16, 1, 1, low=-2, high=2, dtype=ml_dtypes.int2),
    "m4": codes(16, 16, low=-8, high=8, dtype=ml_dtypes.int4),
    "sb": np.full((16, 2, 1, 1), 0.01, np.float32), "sk": np.full((2, 16), 0.01, np.float32),
    # biases: float, and int32 with the scale that integer kernels take for granted
    "b": np.linspace(-1, 1, 16, dtype=np.float32), "b32": codes(16, low=-3000, high=3000, dtype=np.int32),
    "s32": np.float32(0.02) * np.linspace(0.001, 0.02, 16, dtype=np.float32), "z32": np.zeros(16, np.int32),
    "zero": np.float32(0), "six": np.float32(6), "k": np.ones((1, 16, 1, 1), np.float32),
    "shape": np.array([1, 16, 6, 6]), "last": np.array([3]), "one": np.array([1]),
}  # fmt: skip

S8 = "xq = Q (x, s, i) xd = DQ (xq, s, i)"  # the input in int8
U8 = "xq = Q (x, s, u) xd = DQ (xq, s, u)"  # and in uint8
W = "wd = DQ <axis = 0> (w, sw, zw)"
CONV = f"{S8} {W} y = Conv (xd, wd)"  # as TensorRT wants it


def pair(name, result, scale="t", zero="u"):
    """Text of a Q and a DQ from ``name`` to ``result``."""
    return f"{result}_q = Q ({name}, {scale}, {zero}) {result} = DQ ({result}_q, {scale}, {zero})"


FUSED = f"{U8} {W} a = Conv (xd, wd) {pair('a', 'y')}"  # as ONNX Runtime wants it on x86


def model(body, shape="1,16,6,6", outputs=("y",), opset=21, domains="", **constants):
    """A model that reads x and writes float outputs; keyword arguments take the place of constants, or join them."""
    free = ",".join(f"D{axis}" for axis in range(shape.count(",") + 1))
    listed = ", ".join(f"float[{free}] {name}" for name in outputs)
    heading = f'<ir_version: {11 if opset > 22 else 10}, opset_import: ["" : {opset}{domains}]>'
    spelled = re.sub(r"\bDQ\b", "DequantizeLinear", re.sub(r"\bQ\b", "QuantizeLinear", body))
    made = parser.parse_model(f"{heading} g (float[{shape}] x) => ({listed}) {{ {spelled} }}")
    for name in sorted(set(re.findall(r"\w+", body))):
        value = constants.get(name, CONSTANTS.get(name))
        if value is not None:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made
