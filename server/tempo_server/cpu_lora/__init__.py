"""LoRA on vLLM's CPU backend by dense products."""
