"""The operators of the torch engine, one small file per family.

Importing this package does not import torch, so that commands which only look at a model stay quick.
"""

from onnxdfq.engine.operators.registry import Operator, UnsupportedOperator, catalogue, unsupported

__all__ = ["Operator", "UnsupportedOperator", "catalogue", "unsupported"]
