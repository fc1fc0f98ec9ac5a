"""Commands that run or examine a server: `tempo serve`, `tempo doctor`, and vLLM's start."""
