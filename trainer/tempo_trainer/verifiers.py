"""The names that an operator's own verifier imports: its contract, and the verdict it returns."""

from tempo_trainer.sampling.verifiers import Metadata, References, Verdict, Verifier

__all__ = ["Metadata", "References", "Verdict", "Verifier"]
