"""The demonstration: a small reasoner that learns from its own traffic on two CPU cores."""
