"""Capture: turn a request into a question, and keep it in files until Valkey has it."""
