"""What a person wants of single layers: a TOML file beside the command line.

    [[node]]
    name = "backbone/*"      # a pattern on names of nodes, as in a shell; or
    op = "Conv"              # an operator; with both, nodes for which both hold
    bits = 4                 # of the weights; or
    float = true             # the node stays as it is

Later entries win. Keys that mean nothing, entries that match no node, and bits for nodes without weights are errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxdfq.errors import OnnxdfqError
from passes.placement import WEIGHTED

BITS = range(2, 9)
_KEYS = {"name": str, "op": str, "bits": int, "float": bool}


@dataclass(frozen=True)
class Overrides:
    """bits: of the weights, by name of the layer. floats: nodes that stay in float, and who says so."""

    bits: Mapping[str, int] = field(default_factory=dict)
    floats: Mapping[str, str] = field(default_factory=dict)


def read_overrides(path: Path) -> list[dict[str, Any]]:
    """The entries of a configuration file. Raises OnnxdfqError for whatever is wrong with it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnnxdfqError(f"{path} can't be read: {error.strerror}", "give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OnnxdfqError(f"{path} is not TOML: {error}", "see `onnxdfq quantize --help`") from error
    unknown = content.keys() - {"node"}
    if unknown:
        raise OnnxdfqError(f"{path}: unknown key {min(unknown)}", "a configuration holds entries [[node]]")
    entries = content.get("node", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise OnnxdfqError(f"{path}: node is not a list of entries", "write entries as [[node]]")
    for number, entry in enumerate(entries, 1):
        _check(entry, f"{path}: entry {number}")
    return entries


def _check(entry: Mapping[str, Any], where: str) -> None:
    for key, value in entry.items():
        if key not in _KEYS:
            raise OnnxdfqError(f"{where}: unknown key {key}", f"choose from {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise OnnxdfqError(f"{where}: {key} = {value!r} is no {_KEYS[key].__name__}", "correct it")
    if not entry.keys() & {"name", "op"}:
        raise OnnxdfqError(f"{where} says of no node", "give name, op, or both")
    if len(entry.keys() & {"bits", "float"}) != 1:
        raise OnnxdfqError(f"{where} says not what to do", "give either bits or float = true")
    if "bits" in entry and entry["bits"] not in BITS:
        raise OnnxdfqError(f"{where}: bits = {entry['bits']}", f"choose from {BITS[0]} to {BITS[-1]}")


def resolve(entries: Iterable[Mapping[str, Any]], nodes: Mapping[str, str]) -> Overrides:
    """What the entries say of a graph's nodes (name -> operator). Raises OnnxdfqError where one matches none."""
    bits: dict[str, int] = {}
    floats: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        pattern, op = entry.get("name", "*"), entry.get("op")
        matched = [name for name, each in nodes.items() if fnmatchcase(name, pattern) and op in (None, each)]
        layers = [name for name in matched if nodes[name] in WEIGHTED]
        if not matched or ("bits" in entry and not layers):
            said = " and ".join(f'{key} = "{entry[key]}"' for key in ("name", "op") if key in entry)
            kind = "node" if not matched else "layer with weights"
            raise OnnxdfqError(
                f"configuration entry {number} ({said}) matches no {kind}", "`onnxdfq explain` lists them"
            )
        for name in matched:
            bits.pop(name, None)
            floats.pop(name, None)
            if "bits" in entry:
                bits[name] = entry["bits"]
            elif entry["float"]:
                floats[name] = f"the configuration keeps it in float (entry {number})"
    return Overrides(bits, floats)
