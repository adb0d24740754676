"""A dynamic model as a folder: one ordinary model for each level, and a manifest that says how to choose.

    manifest.json      levels, thresholds or router, input, costs, and a hash of every model and of the weights
    level_0.onnx ...   quantized for the target, or float; weights of equal content are kept once in
    weights.bin        which all of them refer to as external data
    router.onnx        where a router chooses
    dynamic.onnx       all of it in one file, for one image at a time
    report.json, curve.png

It is written beside its place and moved there, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

from onnxdfq.engine.ort import SERIALIZED_LIMIT
from onnxdfq.errors import OnnxdfqError

FORMAT = "onnxdfq dynamic 1"
MANIFEST, WEIGHTS, ROUTER, SINGLE = "manifest.json", "weights.bin", "router.onnx", "dynamic.onnx"
BESIDE = ("report.json", "curve.png")
LARGE, ALIGNED = 1024, 64  # bytes
Decision = Literal["cascade", "router"]


@dataclass(frozen=True)
class Input:
    """What images are: see ModelInput and InputDomain."""

    name: str
    shape: tuple[int, int, int, int]  # of one image, in the layout of the model
    layout: str
    batch: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str


@dataclass(frozen=True)
class LevelFile:
    """bitops: of one image. milliseconds: of one image alone, where the bundle was made; None where not measured."""

    name: str
    file: str
    bitops: float
    milliseconds: float | None = None


@dataclass(frozen=True)
class Manifest:
    """decision: what chooses. asked, thresholds: of the cascade, see Cascade. leaning: of the router, one
    for each level. probabilities: whether the first output holds such. files: name -> SHA-256, filled in when
    written."""

    model: str
    target: str
    decision: Decision
    probabilities: bool
    input: Input
    outputs: tuple[str, ...]
    levels: tuple[LevelFile, ...]
    asked: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    leaning: tuple[float, ...] = ()
    router_bitops: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    format: str = FORMAT

    def to_json(self) -> str:
        """What MANIFEST holds."""
        return json.dumps(asdict(self), indent=1)


def level_file(number: int) -> str:
    """Its name in the folder."""
    return f"level_{number}.onnx"


def write_bundle(
    folder: Path,
    manifest: Manifest,
    levels: Sequence[onnx.ModelProto],
    single: onnx.ModelProto | None,
    router: onnx.ModelProto | None,
    others: Mapping[str, bytes],
) -> Manifest:
    """Write a folder, in the place of a bundle that may be there; the manifest as written. others: further files.

    Raises OnnxdfqError where something else stands there, or the file system refuses.
    """
    folder = folder.resolve()
    check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".onnxdfq-") as scratch:
            built = Path(scratch) / folder.name
            built.mkdir()
            _write_levels(built, manifest, levels)
            extra = {SINGLE: single, ROUTER: router}
            for name, model in extra.items():
                if model is not None:
                    (built / name).write_bytes(model.SerializeToString(deterministic=True))
            hashed = {path.name: _hash(path) for path in sorted(built.iterdir())}
            for name, content in others.items():
                (built / name).write_bytes(content)
            written = Manifest(**{**manifest.__dict__, "files": hashed})
            (built / MANIFEST).write_text(written.to_json())
            _put(built, folder, Path(scratch) / "before")
    except OSError as error:
        raise OnnxdfqError(f"{folder} can't be written: {error.strerror}", "nothing was left half-written") from error
    return written


def check_place(folder: Path) -> None:
    """Raise OnnxdfqError now, before minutes of work, where no bundle could be written to ``folder`` at the end."""
    if folder.is_file():
        raise OnnxdfqError(f"{folder} is a file, and levels need a folder", "give the name of a folder with -o")
    if folder.is_dir():
        strange = sorted({path.name for path in folder.iterdir()} - _own_files(folder))
        if strange:
            raise OnnxdfqError(
                f"{folder} holds {strange[0]}, which is no part of a bundle", "give another folder with -o"
            )
    above = folder.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise OnnxdfqError(f"{folder} can't be written: no write access to {above}", "give another place with -o")


def _own_files(folder: Path) -> set[str]:
    """Names of files that a bundle in ``folder`` has; none where it is no bundle."""
    try:
        data = json.loads((folder / MANIFEST).read_text())
        return {MANIFEST, *BESIDE, *data["files"]} if data["format"] == FORMAT else set()
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _put(built: Path, folder: Path, before: Path) -> None:
    """Move a folder to its place; what was there comes back where that fails."""
    if folder.exists():
        os.replace(folder, before)
    try:
        os.replace(built, folder)
    except OSError:
        if before.exists():
            os.replace(before, folder)
        raise


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, all of whose files are there and as they were written.

    Raises OnnxdfqError where they are not.
    """
    path = folder / MANIFEST
    if not path.is_file():
        hint = f"a bundle is a folder with {MANIFEST} in it, made by `onnxdfq quantize --recipe dynadfq`"
        raise OnnxdfqError(f"{folder} is no bundle", hint)
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        if data.get("format") != FORMAT:
            raise OnnxdfqError(f"{path} has format {data.get('format')!r}", f"this version reads {FORMAT!r}")
        entry = data.pop("input")
        manifest = Manifest(
            **{
                **data,
                "input": Input(**{**entry, "shape": tuple(entry["shape"])}),
                "levels": tuple(LevelFile(**level) for level in data["levels"]),
                **{name: tuple(data[name]) for name in ("outputs", "asked", "thresholds", "leaning")},
            }
        )
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OnnxdfqError(f"{path} is damaged: {error}", "make the bundle again") from error
    for name, expected in manifest.files.items():
        part = folder / name
        if not part.is_file():
            raise OnnxdfqError(f"{folder} lacks {name}", "copy the whole folder, or make the bundle again")
        if _hash(part) != expected:
            raise OnnxdfqError(f"{part} is not what was written", "copy it again, or make the bundle again")
    needed = [level.file for level in manifest.levels] + ([ROUTER] if manifest.decision == "router" else [])
    missing = [name for name in needed if name not in manifest.files]
    if missing:
        raise OnnxdfqError(f"{path} names {missing[0]} without its hash", "make the bundle again")
    return manifest


def _check(manifest: Manifest) -> None:
    """Raise ValueError or TypeError for what no bundle was written with."""
    count = len(manifest.levels)
    if not isinstance(manifest.files, dict):
        raise TypeError("files have no hashes")
    if not count or not manifest.outputs or not all(isinstance(name, str) for name in manifest.outputs):
        raise ValueError("there are no levels, or no outputs")
    if manifest.decision == "cascade":
        steps = list(manifest.asked)
        if not steps or len(manifest.thresholds) != len(steps) - 1 or sorted({*steps}) != steps:
            raise ValueError("levels that are asked and thresholds do not fit")
        if not 0 <= min(steps) <= max(steps) < count:
            raise ValueError("a level is asked that is not there")
    elif manifest.decision != "router" or len(manifest.leaning) != count:
        raise ValueError("what decides is not known")
    if not all(isinstance(each, int | float) for each in (*manifest.thresholds, *manifest.leaning)):
        raise TypeError("a threshold is no number")


def _write_levels(built: Path, manifest: Manifest, levels: Sequence[onnx.ModelProto]) -> None:
    """The models of all levels, large tensors of equal content once in WEIGHTS."""
    places: dict[bytes, tuple[int, int]] = {}
    with open(built / WEIGHTS, "wb") as weights:
        for level, model in zip(manifest.levels, levels, strict=True):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            for tensor in copy.graph.initializer:
                if not tensor.HasField("raw_data") or len(tensor.raw_data) < LARGE:
                    continue
                key = hashlib.sha256(tensor.raw_data).digest()
                if key not in places:
                    weights.write(bytes(-weights.tell() % ALIGNED))
                    places[key] = (weights.tell(), len(tensor.raw_data))
                    weights.write(tensor.raw_data)
                _make_external(tensor, *places[key])
            if copy.ByteSize() >= SERIALIZED_LIMIT:
                raise OnnxdfqError(f"level {level.name} is larger than 2 GB without its weights")
            (built / level.file).write_bytes(copy.SerializeToString(deterministic=True))


def _make_external(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
