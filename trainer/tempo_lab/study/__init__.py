"""Compare TEMPO with other ways to learn from questions, on an operator's own data."""
