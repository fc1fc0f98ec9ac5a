"""The old name of `tempo_server.commands.vllm_serve`, for compose files of version 0.1."""

from tempo_server.commands.vllm_serve import run_as

run_as(__name__)
