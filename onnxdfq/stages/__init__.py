"""What a run does, stage by stage: pipeline.py lists them in order."""
