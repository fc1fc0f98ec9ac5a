"""Get responses from vLLM, and verdicts on them from verifiers."""
