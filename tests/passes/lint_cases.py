"""For every rule of the linter models that break it, each with one that is sound and as like it as possible."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from tests.passes.qdq_models import CONV, FUSED, S8, U8, W, codes, pair

ROWS = "4,16"  # a shape of x for matrix products


@dataclass(frozen=True)
class Case:
    """at: what the node writes that the rule finds, "" for the whole model. spoilt: constants of the broken model only.
    sound_opset: where it differs from the broken one's."""

    rule: str
    severity: str
    target: str
    at: str
    broken: str
    sound: str
    spoilt: dict = field(default_factory=dict)
    constants: dict = field(default_factory=dict)
    opset: int = 21
    sound_opset: int | None = None
    shape: str = "1,16,6,6"
    domains: str = ""


def unpacked(name):
    return f"{U8} c = Cast <to = 3> ({name}) wd = DQ <axis = 0> (c, sw, zw) y = Conv (xd, wd)"


def biased(layer, scale):
    return f"{U8} {W} v = DQ <axis = 1> (m, sw, zw) bd = DQ <axis = 0> (b32, {scale}, z32) {layer}"


def residual(left):
    quantized = pair("a", "ad", zero="i") if left == "ad" else ""
    return f"{S8} {W} a = Conv (xd, wd) {quantized} c = Add ({left}, xd) {pair('c', 'd', zero='i')} y = Conv (d, wd)"


PRODUCT = f"{U8} v = DQ (m, sm, zm)"
QLINEAR = "a = Q (x, s, i) c = QLinearConv (a, s, i, w, sm, zm, t, i) y = DQ (c, t, i)"
PER_CHANNEL = f"xq = Q <axis = 1> (x, sw, zw) xd = DQ <axis = 1> (xq, sw, zw) {W} y = Conv (xd, wd)"
BLOCKED_CONV = "wd = DQ <axis = 1, block_size = 8> (w4, sb) y = Conv (xd, wd)"
BLOCKED = "v = DQ <axis = 0, block_size = 8> ({codes}, sk) y = {op} ({data}, v)"
ODD = {"m4": codes(16, 15, low=-8, high=8, dtype=ml_dtypes.int4), "sk": np.ones((2, 15), np.float32)}
CLIPPED = f"{U8} {W} a = Conv (xd, wd) c = Clip (a, zero, six) {pair('c', 'y', zero='n')}"
FIFTEEN = 15 * np.float32(0.05)  # the last of 16 codes
HALF = {"h": np.float16(1)}
RAMP = np.arange(16, dtype=np.int8)

WHOLE_FILE = [
    Case("not-quantized", "note", "tensorrt", "", "y = Relu (x)", CONV),
    Case("opset", "error", "tensorrt", "", CONV, CONV, opset=26, sound_opset=25),
    Case("opset", "warning", "ort-cpu", "", pair("x", "y"), pair("x", "y"), opset=12, sound_opset=13),
    Case("opset-feature", "error", "ort-cpu", "wd", CONV, CONV, opset=12, sound_opset=13),
    Case("opset-feature", "error", "ort-cpu", "y_q", pair("x", "y", "t", "z16"), pair("x", "y"),
         constants={"z16": np.uint16(0)}, opset=19),
    Case("opset-feature", "error", "tensorrt", "y_q", pair("x", "y", "h"), pair("x", "y"), constants=HALF, opset=17),
    Case("opset-feature", "error", "ort-cpu", "wd", unpacked("w2"), unpacked("w4"), opset=24),
    Case("custom-op", "error", "ort-cpu", "a", f"a = some.where.Fancy (x) {pair('a', 'y')}",
         f"a = Relu (x) {pair('a', 'y')}", domains=', "some.where" : 1'),
    Case("custom-op", "error", "tensorrt", "a", f"a = QcQuantizeOp (x) {pair('a', 'y')}",
         f"a = Relu (x) {pair('a', 'y')}"),
    Case("custom-op", "error", "tensorrt", "a", "a = com.microsoft.Q (x, s, i) y = com.microsoft.DQ (a, s, i)",
         "a = Q (x, s, i) y = DQ (a, s, i)", domains=', "com.microsoft" : 1'),
    Case("integer-op", "error", "tensorrt", "c", QLINEAR, CONV),
    Case("integer-op", "error", "openvino", "c", QLINEAR, CONV),
    Case("integer-op", "warning", "ort-cuda", "c", QLINEAR, CONV),
]  # fmt: skip

CODES = [
    Case("bias-int32", "error", "tensorrt", "bd", biased("y = Conv (xd, wd, bd)", "s32"),
         biased("y = Conv (xd, wd, b)", "s32").replace("bd = DQ <axis = 0> (b32, s32, z32)", "")),
    Case("code-type", "error", "tensorrt", "xq", CONV.replace("i)", "n)"), CONV),
    Case("code-type", "error", "openvino", "wd", unpacked("w2"), unpacked("w4"), opset=25),
    Case("zero-point", "error", "tensorrt", "xq", CONV, CONV, {"i": np.int8(3)}),
    Case("zero-point", "error", "tensorrt", "wd", CONV, CONV, {"zw": RAMP}),
    Case("zero-point", "warning", "openvino", "a", FUSED, FUSED, {"zw": RAMP}),
    Case("zero-point-missing", "error", "tensorrt", "a", "a = Q (x, s) y = DQ (a, s)",
         "a = Q <output_dtype = 3> (x, s) y = DQ (a, s)"),
    Case("scale-positive", "error", "tensorrt", "xq", CONV, CONV, {"s": np.float32(0)}),
    Case("scale-positive", "error", "ort-cpu", "xd", FUSED, FUSED, {"s": np.float32(-1)}),
    Case("scale-positive", "error", "ort-cpu", "wd", FUSED, FUSED, {"sw": np.linspace(0, 1, 16, dtype=np.float32)}),
    Case("scale-positive", "error", "tensorrt", "wd", CONV, CONV, {"sw": np.full(16, np.nan, np.float32)}),
    Case("scale-computed", "error", "tensorrt", "y_q", f"h = ReduceMax <keepdims = 0> (x) {pair('x', 'y', 'h')}",
         pair("x", "y")),
    Case("pair-mismatch", "warning", "ort-cpu", "y", "a = Q (x, s, u) y = DQ (a, t, u)",
         "a = Q (x, s, u) y = DQ (a, s, u)"),
    Case("float-type", "warning", "ort-cpu", "y_q", pair("x", "y", "h"), pair("x", "y"), constants=HALF),
]  # fmt: skip

AXES = [
    Case("axis-missing", "error", "tensorrt", "wd", CONV.replace("<axis = 0>", ""), CONV),
    Case("axis-missing", "note", "ort-cpu", "v", "v = DQ (m, sw, zw) y = MatMul (x, v)",
         "v = DQ <axis = 1> (m, sw, zw) y = MatMul (x, v)", shape=ROWS),
    Case("axis-scalar", "error", "tensorrt", "v", f"{S8} v = DQ <axis = 1> (zm, sm, zm) y = Add (xd, v)",
         f"{S8} v = DQ (zm, sm, zm) y = Add (xd, v)"),
    Case("axis-scalar", "note", "tensorrt", "v", "v = DQ <axis = 1> (m, sm, zm) y = MatMul (x, v)",
         "v = DQ (m, sm, zm) y = MatMul (x, v)", shape=ROWS),
    Case("axis-scalar", "warning", "tensorrt", "c", "r = Relu (x) c = Q <axis = 1> (r, s, i) y = DQ (c, s, i)",
         "r = Relu (x) c = Q (r, s, i) y = DQ (c, s, i)"),
    *(Case("axis-wrong", severity, target, "wd", FUSED.replace("axis = 0", "axis = 1"), FUSED)
      for target, severity in [("tensorrt", "error"), ("ort-cpu", "error"), ("openvino", "warning")]),
    Case("axis-wrong", "error", "openvino", "wd", FUSED.replace("axis = 0", "axis = 4"), FUSED),
    Case("axis-wrong", "error", "openvino", "wd", FUSED, FUSED, {"sw": np.ones(8, np.float32), "zw": RAMP[:8]}),
    Case("axis-wrong", "error", "ort-cpu", "wd", FUSED, FUSED, {"zw": np.int8(0)}),
    Case("axis-wrong", "error", "ort-cpu", "v", f"{U8} v = DQ <axis = 1> (m, sw, zw) y = Gemm <transB = 1> (xd, v)",
         f"{U8} v = DQ <axis = 1> (m, sw, zw) y = Gemm (xd, v)", shape=ROWS),
    Case("axis-wrong", "error", "ort-cpu", "v",  # a Transpose takes the axis along
         f"{U8} v = DQ <axis = 1> (m, sw, zw) r = Transpose (v) y = MatMul (xd, r)",
         f"{U8} v = DQ <axis = 0> (m, sw, zw) r = Transpose (v) y = MatMul (xd, r)", shape=ROWS),
    *(Case("activation-per-channel", severity, target, "xq", PER_CHANNEL, CONV)
      for target, severity in [("tensorrt", "error"), ("ort-cpu", "error"), ("openvino", "warning")]),
    *(Case("convtranspose-per-channel", severity, "tensorrt", "wd",
           f"{S8} wd = DQ <axis = 1> (w, sw, zw) y = ConvTranspose <group = {group}> (xd, wd)",
           f"{S8} wd = DQ (w, sm, zm) y = ConvTranspose <group = {group}> (xd, wd)")
      for group, severity in [(1, "warning"), (2, "error")]),
]  # fmt: skip

LAYERS = [
    Case("int4-blocked-conv", "error", "tensorrt", "y", f"{S8} {BLOCKED_CONV}", CONV),
    Case("int4-blocked-conv", "warning", "ort-cpu", "y", f"{U8} {BLOCKED_CONV}", FUSED),
    Case("int8-blocked", "error", "tensorrt", "y", BLOCKED.format(codes="m", op="MatMul", data="x"),
         BLOCKED.format(codes="m4", op="MatMul", data="x"), shape=ROWS),
    *(Case("int8-blocked", severity, "ort-cpu", "y", f"{U8} {BLOCKED.format(codes='m', op=op, data='xd')}",
           f"{U8} v = DQ <axis = 1> (m, sw, zw) y = {op} (xd, v)", shape=ROWS)
      for op, severity in [("MatMul", "error"), ("Gemm", "warning")]),
    *(Case("int4-unfused", "warning", target, "a", FUSED.replace("(w, sw, zw)", "(w4, sw, z4)"), FUSED)
      for target in ("ort-cpu", "openvino")),
    Case("int4-unfused", "warning", "ort-cpu", "y", "v = DQ <axis = 0> (m4, sw, z4) y = Gemm <transB = 1> (x, v)",
         "v = DQ <axis = 1> (m4, sw, z4) y = Gemm (x, v)", shape=ROWS),
    Case("int4-odd", "error", "tensorrt", "v", BLOCKED.format(codes="m4", op="MatMul", data="x"),
         BLOCKED.format(codes="m4", op="MatMul", data="x"), ODD, shape=ROWS),
    Case("packed-cast", "error", "tensorrt", "wd", unpacked("w4").replace("u)", "i)"), CONV),
    Case("weight-bits", "warning", "ort-cpu-avx2", "a", FUSED, FUSED, {"w": codes(16, 16, 1, 1, low=65, high=66)}),
    Case("bias-float", "warning", "ort-cpu", "y", f"{PRODUCT} y = Gemm (xd, v, b)",
         f"{PRODUCT} a = Gemm (xd, v, b) {pair('a', 'y')}", shape=ROWS),
    Case("bias-float", "warning", "ort-cpu", "a", f"{PRODUCT} a = MatMul (xd, v) y = Add (b, a)",
         f"{PRODUCT} a = MatMul (xd, v) c = Add (b, a) {pair('c', 'y')}", shape=ROWS),
    Case("bias-float", "warning", "qnn", "a", f"{U8} {W} a = Conv (xd, wd, b) {pair('a', 'y')}",
         biased(f"a = Conv (xd, wd, bd) {pair('a', 'y')}", "s32")),
    Case("weights-rounded", "warning", "ort-cpu", "a", f"{U8} a = Conv (xd, wf, b) {pair('a', 'y')}",
         f"{U8} bd = DQ <axis = 0> (b32, s32, z32) a = Conv (xd, wf, bd) {pair('a', 'y')}"),
    Case("weights-rounded", "warning", "ort-cpu", "a", f"{U8} a = Conv (xd, wf) c = Relu (a) {pair('c', 'y')}",
         f"{U8} a = Conv (xd, wf) y = Relu (a)"),
    Case("bias-scale", "error", "ort-cpu", "y", biased("y = Gemm (xd, v, bd)", "sw"),
         biased("y = Gemm (xd, v, bd)", "s32"), shape=ROWS),
    Case("bias-scale", "warning", "ort-cpu", "a", biased(f"a = Conv (xd, wd, bd) {pair('a', 'y')}", "sw"),
         biased(f"a = Conv (xd, wd, bd) {pair('a', 'y')}", "s32")),
]  # fmt: skip

PLACING = [
    Case("qdq-before-activation", "warning", "tensorrt", "a",
         f"{S8} {W} a = Conv (xd, wd) {pair('a', 'c', zero='i')} y = Relu (c)",
         f"{S8} {W} a = Conv (xd, wd) c = Relu (a) {pair('c', 'y', zero='i')}"),
    Case("qdq-before-activation", "warning", "tensorrt", "a",  # SiLU
         f"{S8} {W} a = Conv (xd, wd) {pair('a', 'c', zero='i')} d = Sigmoid (c) y = Mul (c, d)",
         f"{S8} {W} a = Conv (xd, wd) d = Sigmoid (a) c = Mul (a, d) {pair('c', 'y', zero='i')}"),
    Case("qdq-before-activation", "warning", "ort-cpu", "a",  # Sigmoid has a kernel of its own there, between integers
         f"{U8} {W} a = Conv (xd, wd) {pair('a', 'c')} y = Relu (c)",
         f"{U8} {W} a = Conv (xd, wd) {pair('a', 'c')} y = Sigmoid (c)"),
    Case("qdq-before-activation", "warning", "ort-cpu", "a",  # what is quantized from 0 up needs no Relu
         f"{U8} {W} a = Conv (xd, wd) {pair('a', 'c')} y = Relu (c)",
         f"{U8} {W} a = Conv (xd, wd) {pair('a', 'c', zero='n')} y = Relu (c)"),
    Case("add-both-quantized", "warning", "tensorrt", "c", residual("ad"), residual("a")),
    Case("concat-scales", "warning", "tensorrt", "c",
         f"{S8} {pair('x', 'e', 't', 'i')} c = Concat <axis = 1> (xd, e) {pair('c', 'y', 's', 'i')}",
         f"{S8} {pair('x', 'e', 's', 'i')} c = Concat <axis = 1> (xd, e) {pair('c', 'y', 's', 'i')}"),
    *(Case("scale-changes", "warning", target, "c", f"{S8} c = Reshape (xd, shape) {pair('c', 'y', 't', 'i')}",
           f"{S8} c = Reshape (xd, shape) {pair('c', 'y', 's', 'i')}") for target in ("tensorrt", "ort-cpu")),
    Case("activation-type", "warning", "ort-cpu", "xq", CONV, FUSED),
    Case("activation-type", "warning", "ort-arm", "xq", FUSED, CONV),
    Case("weights-only", "warning", "ort-cuda", "xq", CONV, f"{W} y = Conv (x, wd)"),
    Case("partly-quantized", "warning", "qnn", "a", f"{U8} {W} a = Conv (xd, wd) y = Erf (a)", FUSED),
    Case("fusion-broken", "warning", "ort-cpu", "y", f"{U8} {W} y = Conv (xd, wd)", FUSED),
    Case("fusion-broken", "warning", "ort-cpu", "a", CLIPPED, CLIPPED, {"six": np.float32(6)},  # no code of 4 bits
         constants={"six": FIFTEEN}),
    Case("few-bits", "note", "ort-cpu", "", CLIPPED, CLIPPED, {"six": FIFTEEN}),
    Case("float-between", "note", "ort-cpu", "c", f"{U8} c = Erf (xd) {pair('c', 'y')}",
         f"{U8} c = Sigmoid (xd) {pair('c', 'y')}"),
]  # fmt: skip

CASES = (*WHOLE_FILE, *CODES, *AXES, *LAYERS, *PLACING)
