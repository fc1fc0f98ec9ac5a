"""Read a file of labeled questions in JSON Lines. A file is used whole or not at all.

    {"messages": [{"role": "user", "content": "6*7?"}], "reference_answer": "42",
     "verifier": "math", "system": "…", "chat_template_kwargs": {…}, "id": "…", "metadata": {…}}

Only the first two fields are needed. `system` becomes the first message. The lines of GSM8K and
MATH are accepted as they are.

Uploads, dry runs and studies read a file in the same steps, and each step returns a value:

    parse               the bytes → a ParsedFile: distinct examples, line errors, warnings
    (the server)        + the errors of the verifiers, which it asks about each reference
    reconcile           − the examples that the ledger has; + conflicts with it
    raise_if_unusable   LabeledFileError with all line errors
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tempo_storage.errors import InvalidInputError, TooLargeError
from tempo_storage.labeled.line import Example, LineRefusedError, Note, read_line
from tempo_storage.labeled.split import MIN_LABELED

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_LINES = 20_000
MIN_EXAMPLES = 8
MAX_LISTED_MESSAGES = 20
MAX_LISTED_RUNS = 10
BOM = b"\xef\xbb\xbf"

BYTE_ORDER_MARK = Note("byte_order_mark", "the byte order mark is ignored")
DUPLICATE = Note("duplicate", "the question is there already; kept once")
ASKED = Note("asked", "users asked it: it leaves the unlabeled pool")


@dataclass(frozen=True, slots=True)
class LineError:
    """The reason why a line is refused."""

    line: int
    code: str
    param: str | None
    message: str


class LabeledFileError(InvalidInputError):
    """The file cannot be used; correct it and pass the whole file again."""

    def __init__(self, message: str = "", *, errors: Iterable[LineError] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """The content of a file, with the errors and warnings about its lines."""

    examples: tuple[Example, ...]
    """One example for each distinct question, in the order of the file."""
    errors: tuple[LineError, ...]
    warnings: tuple[tuple[int, Note], ...]
    """Each with the number of its line."""
    questions: int
    """The number of distinct questions, with those that the ledger has already."""
    bytes: int
    sha256: str

    def summary(self) -> dict[str, Any]:
        """Return counts and warnings; each warning has its first line and the number of lines."""
        lines: dict[Note, list[int]] = {}
        for line, note in self.warnings:
            lines.setdefault(note, []).append(line)
        return {
            "examples": len(self.examples),
            "duplicates": len(lines.get(DUPLICATE, ())),
            "warnings": [
                asdict(note) | {"line": numbers[0], "count": len(numbers)}
                for note, numbers in lines.items()
            ],
        }


def parse(
    content: bytes, verifiers: Collection[str], *, needs_reference: bool = True
) -> ParsedFile:
    """Read the lines of a file; raise TooLargeError for one beyond the limits.

    `verifiers` are the names of the installed ones. Without `needs_reference` a line may have a
    question and no answer, as in a file of unlabeled questions.
    """
    lines = content.removeprefix(BOM).removesuffix(b"\n").split(b"\n", MAX_LINES)
    if len(lines) > MAX_LINES or len(content) > MAX_FILE_BYTES:
        raise TooLargeError("the file has more than 20,000 lines or 32 MiB; split it")
    examples: dict[str, Example] = {}
    errors: list[LineError] = []
    warnings = [(1, BYTE_ORDER_MARK)] if content.startswith(BOM) else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            example, notes = read_line(
                line, number, verifiers=verifiers, needs_reference=needs_reference
            )
        except LineRefusedError as error:
            errors.append(LineError(number, error.code, error.param, str(error)))
            continue
        warnings += [(number, note) for note in notes]
        first = examples.setdefault(example.content_hash, example)
        if first is example:
            continue
        if _conflicts(example, first.reference):
            errors.append(_conflict_error(example, f"line {first.line}"))
        else:
            warnings.append((number, DUPLICATE))
    return ParsedFile(
        examples=tuple(examples.values()),
        errors=tuple(errors),
        warnings=tuple(warnings),
        questions=len(examples),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def reconcile(
    file: ParsedFile, references: Mapping[str, Sequence[Any]], asked_hashes: Collection[str]
) -> ParsedFile:
    """Return the file without the examples that an earlier file has labeled.

    `references` has, by content hash, the references in the ledger; another reference for the same
    question is a line error. `asked_hashes` are those of the questions that users asked.
    """
    stored = [example for example in file.examples if example.content_hash in references]
    new = [example for example in file.examples if example.content_hash not in references]
    errors = list(file.errors)
    warnings = list(file.warnings)
    for example in stored:
        if _conflicts(example, references[example.content_hash]):
            errors.append(_conflict_error(example, "an earlier file"))
        else:
            warnings.append((example.line, DUPLICATE))
    warnings += [(example.line, ASKED) for example in new if example.content_hash in asked_hashes]
    return replace(file, examples=tuple(new), errors=tuple(errors), warnings=tuple(warnings))


def raise_if_unusable(file: ParsedFile, *, min_questions: int = 0) -> None:
    """Raise LabeledFileError, with all line errors, if a line was refused.

    Raise it also for fewer than `min_questions` questions: a critic cannot be calibrated on them.
    """
    if file.errors:
        errors = sorted(file.errors, key=lambda error: error.line)
        message = (
            f"lines that cannot be used: {len(errors)}; nothing was stored, correct them "
            "and pass the whole file again"
        )
        raise LabeledFileError("\n".join([message, *_listing(errors)]), errors=errors)
    if file.questions < min_questions:
        raise LabeledFileError(
            f"{file.questions} distinct questions are too few; "
            f"give at least {min_questions}, better {MIN_LABELED}"
        )


def _conflicts(example: Example, reference: Sequence[Any]) -> bool:
    """Tell whether an example has another reference than this; a missing one is no conflict."""
    if not reference or not example.reference:
        return False
    return set(reference) != set(example.reference)


def _conflict_error(example: Example, place: str) -> LineError:
    message = f"{place} has this question with another reference; keep one"
    return LineError(example.line, "conflicting_reference", "reference_answer", message)


def _listing(errors: Iterable[LineError]) -> list[str]:
    """Return each message once, with all lines that have it: a wrong file has it on all lines."""
    lines: dict[str, list[int]] = {}
    for error in errors:
        lines.setdefault(error.message, []).append(error.line)
    listing = [f"{_runs(numbers)}: {message}" for message, numbers in lines.items()]
    more = len(listing) - MAX_LISTED_MESSAGES
    return [*listing[:MAX_LISTED_MESSAGES], f"and {more} other errors"] if more > 0 else listing


def _runs(lines: Sequence[int]) -> str:
    """Return `line 7`, or `lines 3-480, 512`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    listed = ", ".join("-".join(map(str, run)) for run in runs[:MAX_LISTED_RUNS])
    more = sum(run[-1] - run[0] + 1 for run in runs[MAX_LISTED_RUNS:])
    return f"line{'s' * (len(lines) > 1)} {listed}" + (f" and {more} more" if more else "")
