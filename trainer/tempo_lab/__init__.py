"""The laboratory: it measures the method and serves no users."""
