"""Why ONNX Runtime runs a layer in float, read from what stands around it in the file.

    DQ -> Conv -> Q        becomes one integer kernel on the CPU

Whatever is missing there, or stands in between, is the reason.
"""

from __future__ import annotations

import platform

import onnx

X86 = frozenset({"x86_64", "AMD64", "i386", "i686"})
EIGHT_BITS = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
NO_NODE = "nothing is left of it: it is constant, or the same as another layer"
PACKED = "a kernel for weights of few bits: its activations are float"


class FloatReasons:
    """Called with a layer and the kernel that runs it, says in words why it is no integer one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.outputs = {entry.name for entry in graph.output}
        self.writers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self._read(graph)

    def _read(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            self.writers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    self.types |= {tensor.name: tensor.data_type for tensor in attribute.g.initializer}
                    self.outputs |= {entry.name for entry in attribute.g.output}
                    self._read(attribute.g)

    def __call__(self, layer: onnx.NodeProto, kernel: str) -> str:
        if not kernel:
            return NO_NODE
        if kernel == "MatMulNBits":
            return PACKED
        stored = self._stored(layer.input[1])
        reason = self._inputs(layer, stored) or self._output(layer) or self._bias(layer) or self._signed(layer)
        # Weights of a layer in float are not made float once and for all, but again at every call.
        cost = "; its weights are dequantized at every call" if stored else ""
        return (reason or "the runtime has not fused it") + cost

    def _inputs(self, layer: onnx.NodeProto, stored: int) -> str:
        if layer.op_type == "ConvTranspose":
            return "there is no integer kernel for ConvTranspose"
        activation, weight = self._stored(layer.input[0]), layer.input[1]
        if not activation and not stored:
            return "it is not quantized"
        if not stored:
            return f"its {'weights are' if weight in self.types else 'second operand is'} not quantized"
        if not activation:
            return "its input is not quantized"
        names = {kind: onnx.TensorProto.DataType.Name(kind) for kind in (activation, stored)}
        if stored not in EIGHT_BITS:
            return f"its weights are dequantized from {names[stored]}: a Cast to INT8 has to come first"
        if activation not in EIGHT_BITS:
            return f"there is no integer kernel for {names[activation]} activations"
        return ""

    def _stored(self, name: str) -> int:
        """The integer type that a tensor is dequantized from; 0 when it is not."""
        writer = self.writers.get(name)
        if writer is None or writer.op_type != "DequantizeLinear":
            return 0
        codes = self.writers.get(writer.input[0])
        if codes is not None and codes.op_type == "Cast":
            return next(attribute.i for attribute in codes.attribute if attribute.name == "to")
        zero_point = [*writer.input, "", ""][2]
        return self.types.get(writer.input[0]) or self.types.get(zero_point, onnx.TensorProto.UINT8)

    def _output(self, layer: onnx.NodeProto) -> str:
        """A convolution writes integers or is none; others need a quantized output only for lack of something else."""
        if layer.op_type != "Conv":
            return ""
        readers = self.readers.get(layer.output[0], [])
        quantizers = [node for node in readers if node.op_type == "QuantizeLinear"]
        if len(quantizers) == 1 and len(readers) == 1 and layer.output[0] not in self.outputs:
            return ""
        if len(quantizers) > 1:
            return "its output is quantized more than once"
        if quantizers:
            return "its output is read in float too"
        after = [reader for node in readers for reader in self.readers.get(node.output[0], [])]
        if len(readers) == 1 and any(node.op_type == "QuantizeLinear" for node in after):
            between = readers[0].op_type
            clips = ", which does not clip the same way" if between in ("Relu", "Clip") else ""
            return f"{between} stands between it and the quantizer{clips}"
        return "its output is not quantized"

    def _bias(self, layer: onnx.NodeProto) -> str:
        """Products of matrices that write float take an int32 bias or none; an Add after a MatMul becomes its bias."""
        if layer.op_type == "Gemm" and len(layer.input) > 2 and not self._stored(layer.input[2]):
            return "its bias is float and its output is not quantized"
        added = [node for node in self.readers.get(layer.output[0], []) if node.op_type == "Add"]
        if layer.op_type == "MatMul" and any(self.types.get(name) for node in added for name in node.input):
            return "the float bias that is added becomes part of it, and its output is not quantized"
        return ""

    def _signed(self, layer: onnx.NodeProto) -> str:
        if self._stored(layer.input[0]) == onnx.TensorProto.INT8 and platform.machine() in X86:
            return "int8 activations that several nodes read are not fused on x86, uint8 ones are"
        return ""
