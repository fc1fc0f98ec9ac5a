"""Public names for verifiers in other packages.

The verifiers themselves are in `sampling/verifiers.py`.
"""

from tempo_trainer.sampling.verifiers import Metadata, References, Verdict, Verifier

__all__ = ["Metadata", "References", "Verdict", "Verifier"]
