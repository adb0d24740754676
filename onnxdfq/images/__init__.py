"""Where calibration images come from, and which numbers a model expects an image to hold."""
