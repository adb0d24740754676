"""Images from a small network that is trained, in front of the model, to make what the model knows."""
