"""Ranges of activations, from images, in bounded memory."""
