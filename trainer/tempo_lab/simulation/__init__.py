"""Simulations of how success is judged: gate, sentinel, critics, intervals."""
