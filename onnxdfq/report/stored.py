"""What the weights of a finished model take, in words."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_graphsurgeon as gs

from passes.plan import QuantPlan
from passes.stored_weights import stored_weights


def weights_in_words(model: onnx.ModelProto, plan: QuantPlan) -> str:
    """Bits of the weights, what holds them in the file, and how many bytes they are."""
    stored = stored_weights(gs.import_onnx(model))
    bits = Counter(params.bits for name, params in plan.tensors.items() if name not in plan.readers)
    held = Counter(each.container for each in stored)
    return (
        f"{', '.join(f'{count} of {width} bits' for width, count in sorted(bits.items()))}; "
        f"stored as {', '.join(f'{count} {kind}' for kind, count in sorted(held.items()))}, "
        f"{sum(each.size for each in stored):,} bytes"
    )
