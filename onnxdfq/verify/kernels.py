"""Which kernel ONNX Runtime runs for each layer: its own answer, not a guess from the file.

The model is loaded with ``optimized_model_filepath``, and the layers are looked up in what the runtime made of it:

    x -> Q -> DQ -> Conv -> Relu -> Q -> DQ        becomes        x -> Q -> QLinearConv -> DQ

The level is EXTENDED. The one stage after it reorders data in memory, joins float additions to float convolutions, and
gives new names; it neither makes an integer kernel nor ends one.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper, shape_inference

from onnxdfq.engine.ort import SERIALIZED_LIMIT
from onnxdfq.errors import OnnxdfqError
from onnxdfq.verify.float_reasons import FloatReasons

WEIGHTS_AT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3,
}  # fmt: skip
INTEGER_KERNELS = frozenset({
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeMatMul",
})  # fmt: skip
FLOATS = frozenset({
    onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
})  # fmt: skip
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
SMALL = 1 << 12  # bytes; shapes of reshapes and the like, which shape inference reads
Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerKernel:
    """What runs one layer. node, op: as in the model. kernel: the operator in the optimized graph, empty when nothing
    is left of the layer. integer: whether it multiplies integers. reason: why not. macs: multiplications of one call,
    None where a shape is not known."""

    node: str
    op: str
    kernel: str
    integer: bool
    reason: str
    macs: int | None


@dataclass(frozen=True)
class KernelReport:
    """layers: all of the model, in its order. quantize, dequantize: nodes of that kind left, which cost time at every
    call. floats: operators left that write float, and how many of each."""

    layers: tuple[LayerKernel, ...]
    quantize: int
    dequantize: int
    floats: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Layers by kernel, the most frequent first."""
        return dict(Counter(layer.kernel or "none" for layer in self.layers).most_common())

    @property
    def share(self) -> float | None:
        """Multiplications in integer kernels, of all known ones; None when none are known."""
        known = [layer for layer in self.layers if layer.macs is not None]
        total = sum(layer.macs or 0 for layer in known)
        return sum(layer.macs or 0 for layer in known if layer.integer) / total if total else None

    @property
    def without_macs(self) -> int:
        """Layers whose shapes are not known, and which ``share`` leaves out."""
        return sum(layer.macs is None for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and text, with the totals."""
        totals = {"counts": self.counts, "share": self.share, "without_macs": self.without_macs}
        return asdict(self) | totals


def kernels(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> KernelReport:
    """Load a float or Q/DQ model into ONNX Runtime on the CPU and say what runs.

    shapes: of inputs by name, to count multiplications; a free first axis counts as 1 and other free axes leave layers
    without a count. Raises OnnxdfqError when the runtime refuses the model.
    """
    inferred = _inferred(model, shapes or {})
    sizes = _sizes(inferred)
    why = FloatReasons(model.graph)
    optimized = _optimized(model)
    report = []
    for layer, node in _matched(model.graph, optimized):
        kernel = node.op_type if node else ""
        integer = kernel in INTEGER_KERNELS
        report.append(
            LayerKernel(
                node=layer.name or layer.output[0],
                op=layer.op_type,
                kernel=kernel,
                integer=integer,
                reason="" if integer else why(layer, kernel),
                macs=_macs(layer, sizes) if node else 0,
            )
        )
    operators = Counter(node.op_type for node in _nodes(optimized))
    return KernelReport(
        layers=tuple(report),
        quantize=operators["QuantizeLinear"],
        dequantize=operators["DequantizeLinear"],
        floats=dict(_float_operators(optimized, inferred).most_common()),
    )


def multiplications(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[onnx.NodeProto, int | None]]:
    """Layers of a model and how often each multiplies in one call with inputs of these shapes, None where a shape is
    not known."""
    sizes = _sizes(_inferred(model, shapes or {}))
    return [(node, _macs(node, sizes)) for node in model.graph.node if node.op_type in WEIGHTS_AT]


def kernels_of_file(path: Path) -> KernelReport:
    """The same for a model in a file, complete with its external data."""
    return kernels(onnx.load(path))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the bodies of its If, Loop and Scan."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


# -- what the runtime makes of the model

MARK = "onnxdfq-layer-"


def _optimized(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph that ONNX Runtime runs, without its large weights.

    Fusions keep the name of the layer at their heart, at most with something before or after it: so each layer is
    given a name that tells which one it is.
    """
    marked = onnx.ModelProto()
    marked.CopyFrom(model)  # also because writing weights apart empties the model that is written
    for position, node in enumerate(node for node in _nodes(marked.graph) if node.op_type in WEIGHTS_AT):
        node.name = f"{MARK}{position}-"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is going to run
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.weights")
    with tempfile.TemporaryDirectory(prefix="onnxdfq-") as folder:
        source, result = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        onnx.save(marked, source, save_as_external_data=marked.ByteSize() > SERIALIZED_LIMIT, location="weights")
        options.optimized_model_filepath = str(result)
        try:
            onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class per error code, none of them with a common base
            raise OnnxdfqError(f"ONNX Runtime refuses the model: {str(error).splitlines()[0][:300]}") from error
        return onnx.load(result, load_external_data=False).graph


def _matched(
    graph: onnx.GraphProto, optimized: onnx.GraphProto
) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto | None]]:
    """Each layer with the node that runs it. Where a fusion has lost the name, the weights tell."""
    by_name, by_input = {}, {}
    for node in _nodes(optimized):
        _, mark, rest = node.name.partition(MARK)
        if mark:
            by_name[int(rest.partition("-")[0])] = node
        elif node.op_type in INTEGER_KERNELS:
            by_input.update(dict.fromkeys(node.input, node))
    for position, layer in enumerate(node for node in _nodes(graph) if node.op_type in WEIGHTS_AT):
        yield layer, by_name.get(position) or by_input.get(layer.input[WEIGHTS_AT[layer.op_type]])


def _float_operators(optimized: onnx.GraphProto, inferred: onnx.GraphProto) -> Counter[str]:
    """Operators that write float, without those that multiply integers and those that only change the type.

    Tensors that the runtime has inserted are of no known type: they carry on what their node reads.
    """
    types = _types(inferred) | _types(optimized)
    found: Counter[str] = Counter()
    for node in optimized.node:
        read = types.get([*node.input, ""][0], 0)
        kind = onnx.TensorProto.FLOAT if node.op_type == "DequantizeLinear" else read
        for name in node.output:
            types.setdefault(name, kind)
        if node.op_type not in INTEGER_KERNELS | CONVERSIONS and types[node.output[0]] in FLOATS:
            found[node.op_type] += 1
    return found


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for entry in [*graph.input, *graph.value_info, *graph.output]:
        found[entry.name] = entry.type.tensor_type.elem_type
    return found


# -- multiplications


def _inferred(model: onnx.ModelProto, given: Mapping[str, Sequence[int]]) -> onnx.GraphProto:
    """The graph with all shapes that follow from those of its inputs. Large weights are left out: models of more than
    2 GB pass through, and none is copied."""
    graph = onnx.GraphProto(name="shapes", node=model.graph.node)
    graph.initializer.extend(map(_without_data, model.graph.initializer))
    constants = {tensor.name for tensor in model.graph.initializer}
    for entry in model.graph.input:
        if entry.name in constants:
            continue
        graph.input.append(entry)
        dims = graph.input[-1].type.tensor_type.shape.dim
        if entry.name in given:
            for dim, size in zip(dims, given[entry.name], strict=True):
                dim.dim_value = size
        elif dims and not dims[0].dim_value:
            dims[0].dim_value = 1
    for entry in model.graph.output:  # what is written there may name free axes that are fixed by now
        kind = helper.make_tensor_type_proto(entry.type.tensor_type.elem_type, None)
        graph.output.append(helper.make_value_info(entry.name, kind))
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    try:
        return shape_inference.infer_shapes(bare, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return graph


def _sizes(graph: onnx.GraphProto) -> Sizes:
    """Shapes of all tensors, also of bodies, that have one without free axes."""
    found: Sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for entry in [*graph.input, *graph.value_info, *graph.output]:
        kind = entry.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[entry.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    for body in (body for node in graph.node for body in _bodies(node)):
        found |= _sizes(body)
    return found


def _without_data(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.ByteSize() < SMALL:
        return tensor
    bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = onnx.TensorProto.EXTERNAL
    bare.external_data.add(key="location", value="left-out")
    return bare


def _macs(layer: onnx.NodeProto, sizes: Sizes) -> int | None:
    """Multiplications of one call.

    Conv [O, I/g, k]: one for each output and each number of a filter. ConvTranspose [I, O/g, k]: the same for each
    input. Products of matrices: one for each output and each place of the axis that is summed over.
    """
    data, weight, written = (
        sizes.get(name) for name in (layer.input[0], layer.input[WEIGHTS_AT[layer.op_type]], layer.output[0])
    )
    if data is None or weight is None or written is None:
        return None
    if layer.op_type == "ConvTranspose":
        return prod(data) * prod(weight[1:])
    if "Conv" in layer.op_type:
        return prod(written) * prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in layer.attribute)
    summed = weight[-1] if transposed or len(weight) == 1 else weight[-2]
    return prod(written) * summed
