"""Sample responses from vLLM, and verify them."""
