"""Read labeled files: one reader for uploads, dry runs and studies."""
