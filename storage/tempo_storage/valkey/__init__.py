"""Valkey: the questions' stream, the doorbell of jobs, and a server of our own."""
