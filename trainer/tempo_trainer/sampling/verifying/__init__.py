"""The verifiers: one file for each, and their contract."""
