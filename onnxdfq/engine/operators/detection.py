"""Selection of boxes among those that a detector proposes."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxdfq.engine.operators.registry import operator
from onnxdfq.engine.operators.values import Ints, Number, ints, number


@operator("NonMaxSuppression", since=10, host=("max_output_boxes_per_class", "iou_threshold", "score_threshold"))
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Ints | None = None,
    iou_threshold: Number | None = None,
    score_threshold: Number | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """boxes [N, B, 4], scores [N, classes, B] -> [selected, 3]: image, class and box, best first in every class.

    boxes are y1, x1, y2, x2, in any order of the corners, or with center_point_box the centre x, y, width, height.
    """
    limit = 0 if max_output_boxes_per_class is None else ints(max_output_boxes_per_class)[0]
    overlap, threshold = number(iou_threshold) or 0.0, number(score_threshold)
    first, second = boxes.split(2, -1)
    if center_point_box:
        low, high = first - second / 2, first + second / 2
    else:
        low, high = torch.minimum(first, second), torch.maximum(first, second)
    selected = []
    for image in range(scores.shape[0] if limit > 0 else 0):
        for group, score in enumerate(scores[image]):
            candidates = torch.argsort(score, descending=True, stable=True)
            if threshold is not None:
                candidates = candidates[score[candidates] > threshold]
            kept = _kept(low[image], high[image], candidates, limit, overlap)
            place = kept.new_tensor([image, group]).expand(len(kept), 2)
            selected.append(torch.cat([place, kept[:, None]], 1))
    return torch.cat(selected) if selected else scores.new_zeros((0, 3), dtype=torch.int64)


def _kept(low: Tensor, high: Tensor, candidates: Tensor, limit: int, overlap: Tensor | float) -> Tensor:
    """The candidates [K], best first, without those that overlap too much with a better one that was kept."""
    kept: list[Tensor] = []
    while len(candidates) and len(kept) < limit:
        best, candidates = candidates[:1], candidates[1:]
        kept.append(best)
        edges = torch.minimum(high[best], high[candidates]) - torch.maximum(low[best], low[candidates])
        common = edges.clamp(min=0).prod(-1)
        union = (high[best] - low[best]).prod(-1) + (high[candidates] - low[candidates]).prod(-1) - common
        candidates = candidates[~(common / union > overlap)]
    return torch.cat(kept) if kept else candidates[:0]
