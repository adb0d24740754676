"""The model with Q and DQ in it, made without any other image than procedural ones: the opponent that AdaDFQ wants.

BatchNormalization folded -> ranges on procedural images -> plan -> Q and DQ inserted, weights still in float
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.calibrate.observers import bounds, default_method
from onnxdfq.calibrate.ranges import observe
from onnxdfq.engine.ort import Session, tapped
from onnxdfq.images.drawn import drawn
from onnxdfq.images.source import Subject, batch_size
from onnxdfq.model_file import with_shapes
from passes.activation_bits import activation_bits
from passes.allocate_bits import uniform_bits
from passes.base import run_passes
from passes.fold_batchnorm import FoldBatchNorm
from passes.insert_qdq import InsertQDQ
from passes.integer_forms import INTEGER_FORMS
from passes.placement import place
from passes.plan import decide
from passes.targets import TARGETS

TARGET = "ort-cpu"  # any would do: what matters is that the copy errs as quantized models do
IMAGES = 32


def quantized_copy(subject: Subject, bits: int = 4) -> onnx.ModelProto:
    """The subject's model with weights and activations of so many bits; those at both ends keep 8. Always the same."""
    graph = gs.import_onnx(with_shapes(subject.model))
    run_passes(graph, [FoldBatchNorm(), *INTEGER_FORMS])
    folded = with_shapes(gs.export_onnx(graph))
    target = TARGETS[TARGET]
    placement = place(graph, target)
    widths = activation_bits(graph, placement, bits)
    ranges = _ranges(subject, folded, widths, {name for name, each in graph.tensors().items() if _computed(each)})
    weights = uniform_bits(graph, placement, bits)
    run_passes(graph, [InsertQDQ(decide(graph, ranges, target, weights, placement, widths))])
    return gs.export_onnx(graph)


def _computed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and bool(tensor.inputs)


def _ranges(
    subject: Subject, model: onnx.ModelProto, widths: dict[str, int], computed: set[str]
) -> dict[str, tuple[float, float]]:
    into, size = subject.into, subject.into.batch or batch_size(subject.into)
    session = Session(tapped(model, sorted(widths.keys() & computed)))
    images = [drawn(into, size, 0, shard) for shard in range(-(-IMAGES // size))]
    batches = into.feeds([subject.domain.to_model(each, into) for each in images])
    observed = observe({**feeds, **session.run(feeds)} for feeds in batches)
    for name in set(into.images) & observed.keys():
        observed[name].add(np.array([subject.domain.low, subject.domain.high], np.float32))
    return {
        name: bounds(observed[name], default_method(bits), bits) for name, bits in widths.items() if name in observed
    }
