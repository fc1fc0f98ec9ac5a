"""Valkey: the stream of captured questions, the doorbell of jobs, and an embedded server."""
