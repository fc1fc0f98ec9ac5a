"""LoRA on vLLM's CPU backend, by dense matrix products."""
