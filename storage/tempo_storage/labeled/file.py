"""Read a file of labeled questions, JSON Lines, one line at a time; all or nothing.

    {"messages": [{"role": "user", "content": "6*7?"}], "reference_answer": "42",
     "verifier": "math", "id": "…", "metadata": {…}}

The last three are optional, and the lines of GSM8K and MATH are accepted as they are. What is
refused is refused with the number of its line.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from tempo_storage.errors import InvalidInputError, TooLargeError
from tempo_storage.labeled.line import Example, LineRefusedError, Note, read_line

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_LINES = 20_000
MIN_EXAMPLES = 8
FEW_EXAMPLES = 64
TOLD_FAULTS = 20
TOLD_RUNS = 10
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line is refused."""

    line: int
    code: str
    param: str | None
    message: str


class LabeledFileError(InvalidInputError):
    """A file cannot be used; correct it and upload the whole file again."""

    def __init__(self, message: str = "", *, errors: Iterable[LineError] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)


@dataclass(slots=True)
class Labeled:
    """What a file holds: examples by content hash, and what is to be said about its lines."""

    examples: dict[str, Example] = field(default_factory=dict)
    errors: list[LineError] = field(default_factory=list)
    warnings: dict[Note, list[int]] = field(default_factory=dict)
    duplicates: int = 0
    bytes: int = 0
    sha256: str = ""

    def add(self, example: Example) -> None:
        """Keep an example unless the file has its question already."""
        first = self.examples.setdefault(example.content_hash, example)
        if first is not example:
            self._compare(example, first.reference, f"line {first.line}")

    def drop_stored(self, references: Mapping[str, list[Any]]) -> None:
        """Forget the examples that an earlier file has labeled: `references` by content hash."""
        for content_hash, reference in references.items():
            example = self.examples.pop(content_hash)
            try:
                self._compare(example, reference, "an earlier file")
            except LineRefusedError as error:
                self.refuse(example.line, error)

    def note_asked(self, asked: set[str]) -> None:
        """Note which questions users have asked: `asked` by content hash."""
        for content_hash in asked & self.examples.keys():
            note = Note("asked", "users asked it: it leaves the unlabeled pool")
            self.warn(self.examples[content_hash].line, note)

    def refuse(self, line: int, error: LineRefusedError) -> None:
        """Note why a line is refused."""
        self.errors.append(LineError(line, error.code, error.param, str(error)))

    def warn(self, line: int, note: Note) -> None:
        """Note on which line something was accepted that its author may not have meant."""
        self.warnings.setdefault(note, []).append(line)

    def raise_errors(self) -> None:
        """Raise LabeledFileError if a line was refused."""
        if self.errors:
            told = (
                f"lines that cannot be used: {len(self.errors)}; nothing was stored, correct them "
                "and upload the whole file again",
                *_told(self.errors),
            )
            raise LabeledFileError("\n".join(told), errors=self.errors)

    def raise_if_few(self) -> None:
        """Raise LabeledFileError if a critic cannot be calibrated on so little."""
        if len(self.examples) < MIN_EXAMPLES:
            raise LabeledFileError(
                f"{len(self.examples)} distinct questions are too few; "
                f"give at least {MIN_EXAMPLES}, better {FEW_EXAMPLES}"
            )

    def summary(self) -> dict[str, Any]:
        """Return what the ledger keeps beside the file."""
        return {
            "examples": len(self.examples),
            "held_out": sum(e.split == "held_out" for e in self.examples.values()),
            "duplicates": self.duplicates,
            "warnings": [
                asdict(note) | {"line": lines[0], "count": len(lines)}
                for note, lines in self.warnings.items()
            ],
        }

    def _compare(self, example: Example, reference: list[Any], where: str) -> None:
        if set(reference) != set(example.reference):
            raise LineRefusedError(
                f"{where} has this question with another reference; keep one",
                code="conflicting_reference",
                param="reference_answer",
            )
        self.duplicates += 1
        self.warn(example.line, Note("duplicate", "the question is there already; kept once"))


def parse(file: BinaryIO, verifiers: Collection[str]) -> Labeled:
    """Read a file; a refused line is noted, a file beyond the limits raises TooLargeError."""
    labeled, digest = Labeled(), hashlib.sha256()
    for number, raw in enumerate(file, start=1):
        digest.update(raw)
        labeled.bytes += len(raw)
        if number > MAX_LINES or labeled.bytes > MAX_FILE_BYTES:
            raise TooLargeError("the file has more than 20,000 lines or 32 MiB; split it")
        try:
            _read(labeled, number, raw, verifiers)
        except LineRefusedError as error:
            labeled.refuse(number, error)
    labeled.sha256 = digest.hexdigest()
    if len(labeled.examples) < FEW_EXAMPLES:
        labeled.warn(1, Note("few_examples", f"fewer than {FEW_EXAMPLES}: the gate sees little"))
    return labeled


def _told(errors: Iterable[LineError]) -> list[str]:
    """Return each fault once, with the lines that have it: a wrong file has it on all of them."""
    lines: dict[str, list[int]] = {}
    for error in sorted(errors, key=lambda e: e.line):
        lines.setdefault(error.message, []).append(error.line)
    told = [f"{_runs(found)}: {message}" for message, found in lines.items()]
    more = len(told) - TOLD_FAULTS
    return [*told[:TOLD_FAULTS], f"and {more} other faults"] if more > 0 else told


def _runs(lines: Sequence[int]) -> str:
    """Return `line 7`, or `lines 3-480, 512`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    listed = ", ".join("-".join(map(str, run)) for run in runs[:TOLD_RUNS])
    more = sum(run[-1] - run[0] + 1 for run in runs[TOLD_RUNS:])
    return f"line{'s' * (len(lines) > 1)} {listed}" + (f" and {more} more" if more else "")


def _read(labeled: Labeled, number: int, raw: bytes, verifiers: Collection[str]) -> None:
    if number == 1 and raw.startswith(BOM):
        raw = raw.removeprefix(BOM)
        labeled.warn(1, Note("byte_order_mark", "the byte order mark is ignored"))
    if raw.strip():
        example, notes = read_line(raw, number, verifiers=verifiers)
        for note in notes:
            labeled.warn(number, note)
        labeled.add(example)
