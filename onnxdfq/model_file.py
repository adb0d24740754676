"""Read a model file and write one: every way in which a file can be wrong ends here, in one clear line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import GraphProto, TensorProto, checker, inliner, shape_inference
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnxdfq.engine.ort import SERIALIZED_LIMIT
from onnxdfq.errors import OnnxdfqError
from passes.canonicalize import MAX_OPSET, OLDEST_OPSET, default_opset, raise_opset

QUANTIZED_OPS = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
})  # fmt: skip
OWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def read_model(path: Path, *, quantized: bool = False) -> onnx.ModelProto:
    """The model in a file, complete with external data, checked, inlined, and at an opset that Q/DQ can live in.

    quantized: whether it may hold Q/DQ nodes already.

    Raises OnnxdfqError: no such file, not a model, truncated, external data missing, an operator of an unknown domain,
    already quantized, an opset outside of what can be converted.
    """
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise OnnxdfqError(f"{path} {kind}", "give the path of an ONNX file")
    model = _parsed(path)
    _check_operators(model, path)
    if not quantized and is_quantized(model):
        raise OnnxdfqError(
            f"{path} is already quantized", "give the float model; `onnxdfq retarget` takes quantized ones"
        )
    try:
        checker.check_model(str(path))
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        raise OnnxdfqError(f"{path} is not a valid model: {_first_line(error)}", "export it again") from error
    if model.functions:
        model = inliner.inline_local_functions(model)
    opset = default_opset(model)
    try:
        model = raise_opset(model)
    except ValueError as error:
        hint = f"export it again with an opset of {OLDEST_OPSET}..{MAX_OPSET}, best 17 or newer"
        raise OnnxdfqError(f"{path} has opset {opset}: {error}", hint) from error
    return with_shapes(model)


def size_on_disk(path: Path) -> int:
    """Bytes of a model that was read before, and of the files that hold its weights where those are apart."""
    tensors = tensors_of(onnx.load(path, load_external_data=False).graph)
    apart = {ExternalDataInfo(each).location for each in tensors if uses_external_data(each)}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in apart)


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """All initializers and constants, those in the bodies of nodes too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from tensors_of(body)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether any operator of the graph quantizes, dequantizes or computes in integers."""
    return any(node.op_type in QUANTIZED_OPS for node in model.graph.node)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its tensors written in, as far as they follow; as it is when inference fails."""
    if model.ByteSize() > SERIALIZED_LIMIT:
        return model
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise OnnxdfqError(f"{path} is not an ONNX model, or not all of one", "check the download or export it again") \
            from error  # fmt: skip
    if not model.graph.node or not model.graph.output:
        raise OnnxdfqError(f"{path} holds no ONNX graph", "check the download or export it again")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, checker.ValidationError, ValueError) as error:
        reason = _first_line(error)
        raise OnnxdfqError(f"{path} keeps weights in another file that can't be read: {reason}",
                           "put the data file beside the model") from error  # fmt: skip
    return model


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    local = {function.domain for function in model.functions}
    for node in model.graph.node:
        if node.domain not in OWN_DOMAINS | local:
            raise OnnxdfqError(
                f"{path} uses {node.domain}::{node.op_type}, an operator of an unknown domain",
                "export the model with standard ONNX operators",
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def check_writable(path: Path, source: Path | None) -> None:
    """Raise OnnxdfqError now, before minutes of work, if ``path`` could not be written at the end."""
    if source is not None and path.resolve() == source.resolve():
        raise OnnxdfqError(f"{path} is the input model", "give another name with -o")
    if path.is_dir():
        raise OnnxdfqError(f"{path} is a folder", "give the name of a file with -o")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OnnxdfqError(f"{path} can't be written: no write access to {folder}", "give another place with -o")


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model whole or not at all; weights go to ``path`` + ".data" where one file could not hold them.

    Raises OnnxdfqError when the file system refuses.
    """
    if model.ByteSize() < SERIALIZED_LIMIT:
        write_bytes(model.SerializeToString(deterministic=True), path)
        return
    data = f"{path.name}.data"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnxdfq-") as folder:
            copy = onnx.ModelProto()
            copy.CopyFrom(model)  # writing weights apart takes them out of the model that is written
            onnx.save(copy, Path(folder) / path.name, save_as_external_data=True, location=data)
            os.replace(Path(folder) / data, path.parent / data)
            os.replace(Path(folder) / path.name, path)
    except (OSError, EncodeError) as error:
        raise OnnxdfqError(f"{path} can't be written: {_reason(error)}", "nothing was left half-written") from error


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file under a temporary name and move it into place, so that nobody ever sees half of it."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OnnxdfqError(f"{path} can't be written: {_reason(error)}", "nothing was left half-written") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or _first_line(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
