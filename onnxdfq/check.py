"""What `onnxdfq check` does: read any ONNX file, quantized by whomever, and lint it against a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, checker, inliner, shape_inference
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnxdfq.errors import OnnxdfqError
from onnxdfq.model_file import tensors_of
from passes.lint import SEVERITIES, Finding, lint
from passes.targets import TARGETS

FINDINGS_AT_ERROR_LEVEL = 3  # exit code; 1 and 2 say that the file could not be checked
EXPLAINED_BY = frozenset({"opset", "opset-feature", "custom-op"})  # what onnx's checker would only say again


def check(path: Path, target_name: str) -> list[Finding]:
    """What is wrong with the model in a file for a target, errors first; empty when nothing is.

    Raises OnnxdfqError for an unknown target, and for a file that is no model or not all of one.
    """
    if target_name not in TARGETS:
        raise OnnxdfqError(f"--target {target_name} is not known", f"choose from {', '.join(TARGETS)}")
    model = read_as_it_is(path)
    found = lint(model, TARGETS[target_name], path.parent)
    explained = any(finding.rule in EXPLAINED_BY for finding in found if finding.severity == "error")
    return found if explained else [*invalid_onnx(path), *found]


def invalid_onnx(path: Path) -> Iterator[Finding]:
    """The model breaks ONNX's own rules, so that every runtime may refuse it."""
    try:
        checker.check_model(str(path))
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        yield Finding("error", "invalid-onnx", "", f"onnx's checker says: {_first_line(error)}", "export it again")


def read_as_it_is(path: Path) -> onnx.ModelProto:
    """The model in a file: of any opset, with any operators, unchecked; weights in other files stay there.

    Functions of its own are inlined. Raises OnnxdfqError: no such file, not a model, truncated, external data missing.
    """
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise OnnxdfqError(f"{path} {kind}", "give the path of an ONNX file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, RuntimeError, ValueError, UnicodeDecodeError) as error:
        message = f"{path} is not an ONNX model, or not all of one"
        raise OnnxdfqError(message, "check the download or export it again") from error
    if not model.graph.node or not model.graph.output:
        raise OnnxdfqError(f"{path} holds no ONNX graph", "check the download or export it again")
    for tensor in tensors_of(model.graph):
        if uses_external_data(tensor):
            _check_external(tensor, path)
    return inliner.inline_local_functions(model) if model.functions else model


def summary(path: Path, target_name: str, findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings as plain lists, numbers and text."""
    listed = [asdict(finding) for finding in findings]
    counts = {severity: sum(each["severity"] == severity for each in listed) for severity in SEVERITIES}
    return {"model": str(path), "target": target_name, "counts": counts, "findings": listed}


def exit_code(findings: Iterable[Finding], strict: bool = False) -> int:
    """0 when nothing is wrong, else 3; ``strict`` counts warnings as wrong too."""
    wrong = ("error", "warning") if strict else ("error",)
    return FINDINGS_AT_ERROR_LEVEL if any(finding.severity in wrong for finding in findings) else 0


def _check_external(tensor: TensorProto, path: Path) -> None:
    """Raise OnnxdfqError unless the file that holds a tensor lies beside the model and is long enough."""
    info = ExternalDataInfo(tensor)
    folder = path.parent.resolve()
    file = (folder / info.location).resolve()
    if not file.is_relative_to(folder):
        reason = f"{info.location} is outside of its folder"
    elif not file.is_file():
        reason = f"{info.location} does not exist"
    elif file.stat().st_size < (info.offset or 0) + (info.length or 0):
        reason = f"{info.location} is too short for {tensor.name}"
    else:
        return
    raise OnnxdfqError(
        f"{path} keeps weights in another file that can't be read: {reason}", "put the data file beside the model"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
