"""How close a quantized model stays to its float original, on the runtime that will run it."""
