"""The state that an iteration changes, and its checkpoints."""
