"""A served model from outside: start it, follow its jobs, ask it, and score its answers."""
