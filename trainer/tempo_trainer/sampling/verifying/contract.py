"""The contract between a verifier and the processes that run it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

References = Sequence[str]
Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verifier's decision; `extracted` is the answer that it read in the response, if any."""

    correct: bool
    extracted: str | None = None
    reason: str = ""
    failed: bool = False
    """The verifier raised an error or took too long; the response counts as incorrect."""

    @property
    def outcome(self) -> float:
        """The outcome, `I` in the formulas: 1 if correct, else -1."""
        return 1.0 if self.correct else -1.0


class Verifier(Protocol):
    """The methods of a verifier. An entry point names its class.

    The class is created without arguments.
    A verdict may take 2 seconds and 2 GiB of memory; otherwise the response counts as incorrect.
    A class that needs longer says so with an attribute `timeout_seconds`.
    The worker loads every installed verifier at its start; one that does not load stops it.

    A class whose metadata may be wrong has a method `check_question(reference, metadata)`, too. It
    returns the fault of either, or None, and uploads call it instead of `check_reference`.
    """

    name: str

    def check_reference(self, reference: References) -> str | None:
        """Return the fault of a reference, or None if it has none."""

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare a response with the accepted references.

        `reference` may be empty: then return the answer in `extracted`, and `correct=False`.
        """
