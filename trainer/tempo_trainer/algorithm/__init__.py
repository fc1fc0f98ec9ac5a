"""The algorithm: formulas, one EM iteration, the networks that it trains, and their figures."""
