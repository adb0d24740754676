"""Operators in the forms for which runtimes have integer kernels: what every target is placed and calibrated on."""

from __future__ import annotations

from passes.base import Pass
from passes.gemm_layout import GemmLayout
from passes.mean_to_pool import MeanToPool
from passes.pointwise_to_gemm import PointwiseToGemm
from passes.sum_to_add import SumToAdd

# Pools come first, for they show that the convolution after them sees a single pixel.
INTEGER_FORMS: tuple[Pass, ...] = (SumToAdd(), MeanToPool(), PointwiseToGemm(), GemmLayout())
