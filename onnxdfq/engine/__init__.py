"""Engines that run an ONNX graph."""
