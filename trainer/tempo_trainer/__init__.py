"""The worker: TEMPO (arXiv 2604.19295), not the other TEMPO (arXiv 2509.18314)."""
