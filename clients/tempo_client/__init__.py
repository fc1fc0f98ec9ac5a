"""The SDK of vllm-tempo."""
