"""The vLLM plugin: serve adapters, capture questions, take labeled data."""
