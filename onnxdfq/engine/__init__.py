"""Engines that run a graph: torch where gradients are needed, ONNX Runtime for truth and speed."""

import os

# Before libgomp is loaded: torch's threads otherwise spin while they wait for each other, and on a machine that has
# other work too, small networks then train many times slower (measured: 213 s against 28 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
