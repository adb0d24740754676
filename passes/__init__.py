"""Graph passes: graph in, graph out, on numpy, onnx and onnx-graphsurgeon alone."""
