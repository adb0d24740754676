"""Bits chosen for each image: levels of one model, what decides between them, and the files that carry both."""
