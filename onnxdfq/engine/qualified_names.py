"""Names of ONNX tensors as names that a torch module can hold and that Python can spell."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from itertools import count

from torch import fx, nn

_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def qualified_names(names: Iterable[str]) -> dict[str, str]:
    """A qualified name for each initializer: its own where torch can hold it, else a safe one."""
    names = list(names)
    prefixes = {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts))}
    qualified = {name: name for name in names if name not in prefixes and all(map(_holdable, name.split(".")))}
    for name in names:
        if name not in qualified:
            qualified[name] = safe_name(name, qualified.values())
    return qualified


def _holdable(part: str) -> bool:
    """Whether torch accepts this as an attribute, and the code that fx generates can spell it."""
    return bool(re.fullmatch(r'[^"\\\n\r]+', part)) and part not in _RESERVED and not keyword.iskeyword(part)


def safe_name(name: str, taken: Iterable[str]) -> str:
    """A name without dots that is neither taken nor the beginning of one that is."""
    first = {other.split(".")[0] for other in taken}
    base = "tensor_" + re.sub(r"\W", "_", name, flags=re.ASCII)
    return base if base not in first else next(n for i in count(2) if (n := f"{base}_{i}") not in first)
