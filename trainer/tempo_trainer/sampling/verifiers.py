"""Verifiers decide whether a response agrees with a reference. They run in child processes only.

Math-verify can hang past its own time-outs, so neither worker nor server calls a verifier. A child
reads items as JSON lines until standard input ends, and answers each with one line. `serve` answers
with verdicts on responses; `check` answers with faults of references.

    python -m tempo_trainer.sampling.verifiers serve math exact
    python -m tempo_trainer.sampling.verifiers check

Operators add verifiers of their own through the entry-point group `tempo.verifiers`.
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
ORPHAN_SECONDS = 120  # after which a hanging child ends, if no parent is left to kill it
MAX_TAIL_CHARACTERS = 4096
MAX_SHOWN_CHARACTERS = 200

MARKED = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)+\s*(.+)", re.IGNORECASE)
# A choice may be named as the answer, or only stand alone: (B), or B on a line of its own.
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
    The worker loads every installed verifier at its start; one that does not load stops it.
    """

    name: str

    def check_reference(self, reference: References) -> str | None:
        """Return the fault of a reference, or None if it has none."""

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare a response with the accepted references.

        `reference` may be empty: then return the answer in `extracted`, and `correct=False`.
        """


def final_text(response: str) -> str:
    """Return the text after the reasoning, at most its last 4,096 characters."""
    return response.rpartition("</think>")[2][-MAX_TAIL_CHARACTERS:]


def answer(response: str) -> str:
    """Return the boxed answer, else the text after "answer is", else the last line."""
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
    """Return the last number in a text, which may have thousands separators or be a fraction."""
    numbers = NUMBER.findall(unicodedata.normalize("NFKC", text))
    if not numbers:
        return None
    numerator, _, denominator = numbers[-1].replace(",", "").replace(" ", "").partition("/")
    divisor = float(denominator) if denominator else 1.0
    return float(numerator) / divisor if divisor else None


class Exact:
    """The answer is one of the references, letter for letter after normalisation."""

    name = "exact"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is empty."""
        return None if all(map(normalise, reference)) else "an empty reference matches nothing"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the extracted answer."""
        extracted = answer(response)
        return Verdict(normalise(extracted) in map(normalise, reference), extracted)


class Numeric:
    """The answer is a number within `metadata["tolerance"]` (relative, default 1e-6)."""

    name = "numeric"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference has no number."""
        faulty = [r for r in reference if number(r) is None]
        return f"no number in {faulty[0]!r}" if faulty else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the last number of the extracted answer."""
        value = number(answer(response))
        if value is None:
            return Verdict(False, None, "no number")
        tolerance = float(metadata.get("tolerance", 1e-6))
        accepted = [a for r in reference if (a := number(r)) is not None]
        close = any(abs(value - a) <= tolerance * max(1.0, abs(a)) for a in accepted)
        return Verdict(close, repr(value))


class Choice:
    """The answer is one letter from A to J: "(B)", "Answer: B", or B on a line of its own."""

    name = "choice"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is not one letter."""
        faulty = [r for r in reference if not CHOICE.fullmatch(r)]
        return f"{faulty[0]!r} is not one letter from A to J" if faulty else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the last letter that is named as the answer, else the last that stands alone."""
        text = final_text(response)
        choices = NAMED_CHOICE.findall(text) or LONE_CHOICE.findall(text)
        if not choices:
            return Verdict(False, None, "no choice")
        letter = "".join(choices[-1]).upper()
        accepted = {m[1].upper() for r in reference if (m := CHOICE.fullmatch(r))}
        return Verdict(letter in accepted, letter)


class Math:
    """The answer equals a reference as mathematics (math-verify)."""

    name = "math"

    def __init__(self) -> None:
        from math_verify import parse, verify

        # math-verify warns once that nothing bounds its time; the pool of processes does.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._parse = parse
        self._verify = verify
        self._read = lru_cache(maxsize=1024)(self._read_reference)
        self.verify("$1+1$", ["2"], {})  # the grammar's first use takes a tenth of a second

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference does not parse."""
        faulty = [r for r in reference if not self._read(r)]
        return f"cannot read {faulty[0]!r} as mathematics" if faulty else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Parse both sides without math-verify's alarms and compare."""
        parsed = self._parse(final_text(response), parsing_timeout=None)
        if not parsed:
            return Verdict(False, None)
        correct = any(
            self._verify(self._read(accepted), parsed, timeout_seconds=None)
            for accepted in reference
        )
        return Verdict(correct, str(parsed[-1]))

    def _read_reference(self, reference: str) -> Any:
        return self._parse(f"\\boxed{{{reference}}}", parsing_timeout=None)


def names() -> list[str]:
    """Return the names of the installed verifiers."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def load(name: str) -> Verifier:
    """Instantiate a verifier; raise LookupError with the installed names for an unknown one."""
    for entry in entry_points(group=GROUP, name=name):
        verifier: Verifier = entry.load()()
        return verifier
    raise LookupError(f"no verifier {name!r}; installed are {', '.join(names())}")


def main(arguments: Sequence[str]) -> None:
    """Answer each JSON line on standard input with one on standard output, until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    mode, *preload = arguments
    answer_line = {"check": _check, "serve": _verify}[mode]
    load_once = cache(load)
    for name in preload:
        load_once(name)
    # A verifier's own prints go to standard error: nobody must read them as a verdict.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if mode == "serve":
        print("ready", file=replies)
    for text in sys.stdin:
        # The kernel ends a hanging child: Python's own timers do not run in the middle of one
        # long multiplication.
        signal.alarm(ORPHAN_SECONDS)
        print(json.dumps(answer_line(json.loads(text), load_once)), file=replies)
        signal.alarm(0)


def _check(line: dict[str, Any], load_once: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        error = load_once(line["verifier"]).check_reference(line["reference"])
    except Exception as failure:
        error = _shown(failure)
    return {"line": line["line"], "error": error}


def _verify(line: dict[str, Any], load_once: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        verifier = load_once(line["verifier"])
        verdict = verifier.verify(line["response"], line["reference"], line["metadata"])
    except Exception as failure:  # a verifier's own failure is a verdict, not a crash
        verdict = Verdict(False, None, _shown(failure), failed=True)
    extracted = verdict.extracted and verdict.extracted[:MAX_SHOWN_CHARACTERS]
    return asdict(replace(verdict, extracted=extracted))


def _shown(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"[:MAX_SHOWN_CHARACTERS]


if __name__ == "__main__":
    main(sys.argv[1:])
