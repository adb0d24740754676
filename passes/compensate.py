"""Give the outputs of rounded layers back their means and sizes, from statistics that the model carries.

    y = W x + b,   ^y = ^W x + b          m = W E[x],  ^m = ^W E[x]             (moments.py)
    r = std[^y] / std[y]                  k = the correlation of y and ^y

    f = 1 / (r sqrt(k)),   b' = b + m - f ^m          then  f ^W x + b'  has the mean of y

^y is made of the signal, r k times y, and of noise. A factor of 1 / r gives the output its deviation back, as measuring
BatchNormalization again would, but part of that is noise now, and layer by layer the signal fades; 1 / (r k) gives the
signal back, and noise comes on top of it. f is half way between them, which is better than either in deep networks and
hardly worse in shallow ones. The means are bias correction (Nagel et al. 2019, section 4.2).

    W -> Q(s) -> DQ(s) -> Conv(b)       becomes       f W -> Q(f s) -> DQ(f s) -> Conv(b + shift)

Codes stay as they are. If pairs are given, low layers get the coefficients of DF-MPC (dfmpc.py) on top of that, in the
same place, for c Relu(f ^y) = Relu(c f ^y) where c >= 0. The layer that reads them gets its own size back with c in it,
so that only the proportions of its inputs change: less of those that rounding has spoilt. It hardly matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip
from passes.correct_bias import bias_of, shift_bias
from passes.dfmpc import bias_values, coefficients, scaled_inputs, why_no_coefficient
from passes.fold_batchnorm import ChannelStats
from passes.layer_kernels import groups_of, kernels_of
from passes.moments import covariance, mean_shift, std_ratio
from passes.pairing import Pair
from passes.weight_quantizer import weight_quantizer

RULE = "compensate"
SMOOTH, WHITE = 0.5, 0.0  # rho: for rounding whose errors cancel within a kernel, and for any other
LEAST_COSINE = 0.25  # less says that there is no signal left to speak of


@dataclass(frozen=True)
class Compensation:
    """What to do about one layer, each [O]: weights and their scale times ``factor``, bias plus ``shift``.

    cosine: between the outputs before and after rounding. coefficient: the c that is in factor and shift.
    """

    factor: np.ndarray
    shift: np.ndarray
    cosine: np.ndarray
    coefficient: np.ndarray

    @property
    def why(self) -> str:
        """In words, for the report."""
        return (
            f"median cosine {np.median(self.cosine):.3f}, scales times {np.median(self.factor):.3f} "
            f"({self.factor.min():.3f} to {self.factor.max():.3f})"
        )


def decide_compensation(
    graph: gs.Graph,
    rounded: Mapping[str, np.ndarray],
    statistics: Mapping[str, ChannelStats],
    rho: Mapping[str, float],
    pairs: Sequence[Pair] = (),
) -> tuple[dict[str, Compensation], tuple[Skip, ...]]:
    """Compensations by layer, and the layers of ``rounded`` that get none. Pure.

    graph: canonical, with float weights. rounded: by layer, what its codes stand for, [O, I / groups, K]. statistics:
    by tensor, as far as they are known (propagate_moments.py). rho: by layer, SMOOTH after SQuant, else WHITE. pairs:
    whose low layers get coefficients.
    """
    layers = {node.name: node for node in graph.nodes if node.name in rounded}
    reasons = {name: why_not(layer, statistics) for name, layer in layers.items()}
    skips = [Skip(name, RULE, reason) for name, reason in reasons.items() if reason]
    known = {name: layer for name, layer in layers.items() if not reasons[name]}
    spoilt = {pair.low: _why_no_coefficient(pair, known) for pair in pairs if pair.low in known}
    skips += [Skip(name, RULE, f"no coefficient: {reason}") for name, reason in spoilt.items() if reason]
    paths = {pair.low: pair.path for pair in pairs if spoilt.get(pair.low) == ""}
    inputs: dict[str, np.ndarray] = {}  # coefficients of the channels that a layer reads
    found = {}
    for name, layer in known.items():  # in the order of the graph: what a layer reads has been scaled already
        kernels, seen, stats = kernels_of(layer), rounded[name], statistics[layer.inputs[0].name]
        if name in inputs:
            seen = scaled_inputs(layer, seen, inputs[name])
        cosine = _cosine(layer, kernels, seen, stats.std, rho[name])
        signal = np.where(cosine > 0, np.maximum(cosine, LEAST_COSINE), 1)
        factor = 1 / (std_ratio(layer, kernels, seen, stats.std, rho[name]) * np.sqrt(signal))
        shift = mean_shift(layer, kernels, stats.mean) - factor * mean_shift(layer, seen, stats.mean)
        coefficient = np.ones_like(factor)
        if name in paths:
            mended = seen * factor[:, None, None]
            cross, energy = (covariance(layer, each, mended, stats.std, rho[name]) for each in (kernels, mended))
            coefficient = coefficients(cross, energy, np.zeros(1), np.zeros(1), lambda1=0.0)
            shift = coefficient * (bias_values(layer) + shift) - bias_values(layer)
            for reader in paths[name].readers:
                channels = statistics[known[reader.layer].inputs[0].name].mean.size
                read = inputs.setdefault(reader.layer, np.ones(channels))
                read[reader.offset : reader.offset + len(coefficient)] = coefficient
        found[name] = Compensation(coefficient * factor, shift, cosine, coefficient)
    return found, tuple(skips)


def why_not(layer: gs.Node, statistics: Mapping[str, ChannelStats]) -> str:
    """Why the moments of a layer's output cannot be given back; empty when they can."""
    read = layer.inputs[0]
    stats = statistics.get(read.name)
    if stats is None:
        return f"no statistics reach {read.name}, which it reads"
    flat = layer.op in ("Gemm", "MatMul")
    if (flat and len(read.shape or ()) != 2) or stats.mean.size != groups_of(layer) * kernels_of(layer).shape[1]:
        return f"the statistics of {read.name} are not those of the channels that it reads"
    return "" if bias_of(layer) else "it has no place for a bias"


def _why_no_coefficient(pair: Pair, known: Mapping[str, gs.Node]) -> str:
    """Why the output of a low layer cannot be scaled; empty when it can."""
    low, path = known[pair.low], pair.path
    missing = [name for name in pair.high if name not in known]
    if missing:
        return f"{missing[0]}, which reads it, gets no compensation"
    if path.clips:
        return f"{path.clips[0]} clips at a bound that would have to be scaled too"
    if path.through:
        return f"the bias of {path.through[0]}, which it passes, would have to be scaled too"
    return why_no_coefficient(low)


def _cosine(layer: gs.Node, kernels: np.ndarray, rounded: np.ndarray, std: np.ndarray, rho: float) -> np.ndarray:
    """Correlation [O] of the outputs before and after rounding; 0 where one of them is constant."""
    cross = covariance(layer, kernels, rounded, std, rho)
    sizes = covariance(layer, kernels, kernels, std, rho) * covariance(layer, rounded, rounded, std, rho)
    return np.divide(cross, np.sqrt(sizes), out=np.zeros_like(cross), where=sizes > 0)


@dataclass(frozen=True)
class Compensate(Pass):
    """Apply compensations, by layer, to a graph with float weights behind quantizers."""

    name: ClassVar[str] = RULE
    compensations: Mapping[str, Compensation]

    def __call__(self, graph: gs.Graph) -> PassResult:
        skips = []
        layers = {node.name: node for node in graph.nodes if node.name in self.compensations}
        for name, layer in layers.items():
            compensation, quantizer = self.compensations[name], weight_quantizer(layer)
            if isinstance(quantizer, str):
                skips.append(Skip(name, self.name, quantizer))
                continue
            factor = quantizer.column(compensation.factor)
            quantizer.set(quantizer.weights.values * factor, quantizer.scale.values * compensation.factor)
            shift_bias(layer, compensation.shift)
        return PassResult(len(layers) - len(skips), tuple(skips))
