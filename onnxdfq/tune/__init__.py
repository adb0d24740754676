"""The quantized graph learns, from synthetic images and the float model alone."""
