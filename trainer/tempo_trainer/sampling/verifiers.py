"""Verifiers: does a response agree with a reference; run only inside a child process of their own.

Math-verify can hang past its own time-outs, so nothing here is called in the worker or the server:

    python -m tempo_trainer.sampling.verifiers serve math exact  one verdict a line until stdin ends
    python -m tempo_trainer.sampling.verifiers check              what is wrong with each reference

Operators add their own through the entry-point group `tempo.verifiers`.
"""

import json
import logging
import os
import re
import resource
import signal
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import entry_points
from typing import Any, Protocol

from tempo_storage.boxed import boxed

GROUP = "tempo.verifiers"
MEMORY_BYTES = 2 << 30  # address space, not resident
ORPHAN_SECONDS = 120  # a child that hangs with nobody left to kill it ends after this
TAIL_CHARACTERS = 4096
SHOWN_CHARACTERS = 200

MARKED = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)+\s*(.+)", re.IGNORECASE)
# A choice that is named as the answer, and one that only stands alone: (B), or B on its own line.
NAMED_CHOICE = re.compile(
    r"\\boxed\{[^A-Za-z]*(?:\\[a-z]+\{\W*)?([A-Ja-j])(?![A-Za-z])"
    r"|(?i:answer|option|choice)\W*(?:(?i:is|be|option|choice)\W+)*(?:\(([a-j])\)|([A-J])(?![\w'’]))"
)
LONE_CHOICE = re.compile(
    r"(?<!\w)\(([A-Ja-j])\)|^\W*([A-Ja-j])\W*$|\A\W*([A-J])[.):]\s.*\Z", re.MULTILINE
)
CHOICE = re.compile(r"\W*([A-Ja-j])\W*")
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?")

References = Sequence[str]
Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found; `extracted` is the answer it read, if any."""

    correct: bool
    extracted: str | None = None
    reason: str = ""
    failed: bool = False
    """The verifier gave no verdict: it raised, or took too long. Counts as incorrect."""

    @property
    def outcome(self) -> float:
        """I of the formulas: 1 or -1."""
        return 1.0 if self.correct else -1.0


class Verifier(Protocol):
    """The contract of an entry point: a class without constructor arguments."""

    name: str

    def check_reference(self, reference: References) -> str | None:
        """Say what is wrong with a reference, or None."""

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare a response with the accepted references."""


def final_text(response: str) -> str:
    """Return what follows the reasoning, at most the last 4,096 characters."""
    return response.rpartition("</think>")[2][-TAIL_CHARACTERS:]


def answer(response: str) -> str:
    """Return the boxed answer, else what follows "answer is", else the last line."""
    text = final_text(response)
    if (inside := boxed(text)) is not None:
        return inside
    if marked := MARKED.findall(text):
        return str(marked[-1]).strip().rstrip(".")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def normalise(text: str) -> str:
    """Fold Unicode form, case, white space and a final period."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(".")


def number(text: str) -> float | None:
    """Return the last number in a text, thousands separators and fractions understood."""
    found = NUMBER.findall(unicodedata.normalize("NFKC", text))
    if not found:
        return None
    numerator, _, denominator = found[-1].replace(",", "").replace(" ", "").partition("/")
    below = float(denominator) if denominator else 1.0
    return float(numerator) / below if below else None


class Exact:
    """The answer is one of the references, letter for letter after normalisation."""

    name = "exact"

    def check_reference(self, reference: References) -> str | None:
        """Refuse references that normalise to nothing."""
        return None if all(map(normalise, reference)) else "an empty reference matches nothing"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the extracted answer."""
        found = answer(response)
        return Verdict(normalise(found) in map(normalise, reference), found)


class Numeric:
    """The answer is a number within `metadata["tolerance"]` (relative, default 1e-6)."""

    name = "numeric"

    def check_reference(self, reference: References) -> str | None:
        """Refuse references without a number."""
        bad = [r for r in reference if number(r) is None]
        return f"no number in {bad[0]!r}" if bad else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the last number of the extracted answer."""
        found = number(answer(response))
        if found is None:
            return Verdict(False, None, "no number")
        tolerance = float(metadata.get("tolerance", 1e-6))
        wanted = [w for r in reference if (w := number(r)) is not None]
        close = any(abs(found - w) <= tolerance * max(1.0, abs(w)) for w in wanted)
        return Verdict(close, repr(found))


class Choice:
    """The answer is one letter from A to J: "(B)", "Answer: B", or B on a line of its own."""

    name = "choice"

    def check_reference(self, reference: References) -> str | None:
        """Refuse references that are not one letter."""
        bad = [r for r in reference if not CHOICE.fullmatch(r)]
        return f"{bad[0]!r} is not one letter from A to J" if bad else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the last letter that is named as the answer, else the last that stands alone."""
        text = final_text(response)
        found = NAMED_CHOICE.findall(text) or LONE_CHOICE.findall(text)
        if not found:
            return Verdict(False, None, "no choice")
        letter = "".join(found[-1]).upper()
        wanted = {m[1].upper() for r in reference if (m := CHOICE.fullmatch(r))}
        return Verdict(letter in wanted, letter)


class Math:
    """The answer equals a reference as mathematics (math-verify)."""

    name = "math"

    def __init__(self) -> None:
        from math_verify import parse, verify

        # Each process would warn once that nobody bounds its time; the pool does.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._parse, self._verify = parse, verify
        self._read = lru_cache(maxsize=1024)(self._read_reference)
        self.verify("$1+1$", ["2"], {})  # the grammar's first use takes a tenth of a second

    def check_reference(self, reference: References) -> str | None:
        """Refuse references that do not parse."""
        bad = [r for r in reference if not self._read(r)]
        return f"cannot read {bad[0]!r} as mathematics" if bad else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Parse both sides without math-verify's alarms and compare."""
        found = self._parse(final_text(response), parsing_timeout=None)
        for accepted in reference:
            if found and self._verify(self._read(accepted), found, timeout_seconds=None):
                return Verdict(True, str(found[-1]))
        return Verdict(False, str(found[-1]) if found else None)

    def _read_reference(self, reference: str) -> Any:
        return self._parse(f"\\boxed{{{reference}}}", parsing_timeout=None)


def names() -> list[str]:
    """Return the verifiers that are installed."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def load(name: str) -> Verifier:
    """Instantiate a verifier; raise LookupError with the installed names for an unknown one."""
    for entry in entry_points(group=GROUP, name=name):
        made: Verifier = entry.load()()
        return made
    raise LookupError(f"no verifier {name!r}; installed are {', '.join(names())}")


def main(arguments: Sequence[str]) -> None:
    """Answer JSON lines on standard input, one for one, until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    mode, *preload = arguments
    answer_line = {"check": _check, "serve": _verify}[mode]
    loaded = cache(load)
    for name in preload:
        loaded(name)
    # Whatever a verifier prints must not be read as a verdict.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if mode == "serve":
        print("ready", file=replies)
    for text in sys.stdin:
        # The kernel's clock, for arithmetic that never gives the interpreter a chance to look.
        signal.alarm(ORPHAN_SECONDS)
        print(json.dumps(answer_line(json.loads(text), loaded)), file=replies)
        signal.alarm(0)


def _check(line: dict[str, Any], loaded: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        error = loaded(line["verifier"]).check_reference(line["reference"])
    except Exception as failure:
        error = _shown(failure)
    return {"line": line["line"], "error": error}


def _verify(line: dict[str, Any], loaded: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        verifier = loaded(line["verifier"])
        verdict = verifier.verify(line["response"], line["reference"], line["metadata"])
    except Exception as failure:  # a verifier's own failure is a verdict, not a crash
        verdict = Verdict(False, None, _shown(failure), failed=True)
    extracted = verdict.extracted and verdict.extracted[:SHOWN_CHARACTERS]
    return asdict(replace(verdict, extracted=extracted))


def _shown(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"[:SHOWN_CHARACTERS]


if __name__ == "__main__":
    main(sys.argv[1:])
