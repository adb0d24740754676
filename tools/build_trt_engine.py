"""Build a TensorRT engine from a model that was quantized for it.

    python tools/build_trt_engine.py model.tensorrt.int8.onnx -o model.engine [--batch 1,8,32]

Types are those that the file says (a strongly typed network): integers where Q and DQ stand, and else what was written.
Needs TensorRT 10 or newer with its Python package, and the GPU that the engine is for. Errors of the parser are
printed as they are; `onnxdfq check MODEL --target tensorrt` says what to do about most of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import check_writable, write_bytes

WORKSPACE = 4 << 30  # bytes that a layer may use at most while it runs


def build(trt: ModuleType, model: Path, batch: tuple[int, int, int] | None) -> bytes:
    """The engine. batch: least, best and most images at once, where the model leaves that open.

    Raises OnnxdfqError with TensorRT's own words where it refuses.
    """
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise OnnxdfqError(f"TensorRT {trt.__version__} has no strongly typed networks", "use trtexec --int8 --fp16")
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    if not parser.parse_from_file(str(model)):
        said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise OnnxdfqError(f"TensorRT does not read {model}: {said}", f"`onnxdfq check {model} --target tensorrt`")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    free = [each for each in inputs if -1 in tuple(each.shape)]
    if batch and not free:
        raise OnnxdfqError(f"{model} has no free batch", "leave --batch out")
    if free:
        config.add_optimization_profile(_profile(builder, free, batch))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise OnnxdfqError(f"TensorRT builds no engine from {model}", "its log above says why")
    return bytes(engine)


def _profile(builder: Any, free: list[Any], batch: tuple[int, int, int] | None) -> Any:
    profile = builder.create_optimization_profile()
    for each in free:
        shape = tuple(each.shape)
        if -1 in shape[1:]:
            raise OnnxdfqError(f"input {each.name} has free axes {shape}", "fix all but the batch when you export")
        profile.set_shape(each.name, *((size, *shape[1:]) for size in batch or (1, 1, 1)))
    return profile


def _sizes(text: str) -> tuple[int, int, int]:
    sizes = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if len(sizes) != 3 or not 0 < sizes[0] <= sizes[1] <= sizes[2]:
        raise argparse.ArgumentTypeError(f"{text} is not least,best,most such as 1,8,32")
    return sizes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build a TensorRT engine from a quantized model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="by default the model's name with .engine")
    parser.add_argument("--batch", type=_sizes, metavar="1,8,32", help="least, best, most; by default 1")
    parsed = parser.parse_args(arguments)
    output = parsed.output or parsed.model.with_suffix(".engine")
    try:
        if not parsed.model.is_file():
            raise OnnxdfqError(f"{parsed.model} does not exist", "give a model made with --target tensorrt")
        check_writable(output, parsed.model)
        try:
            import tensorrt
        except ImportError:
            raise OnnxdfqError("TensorRT's Python package is missing", "pip install tensorrt, or use trtexec") from None
        began = time.perf_counter()
        engine = build(tensorrt, parsed.model, parsed.batch)
        write_bytes(engine, output)
    except OnnxdfqError as error:
        print(f"build_trt_engine: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{output}: {len(engine) / 1e6:.2f} MB, TensorRT {tensorrt.__version__}, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
