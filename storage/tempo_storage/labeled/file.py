"""Read a file of labeled questions. A file is used whole or not at all.

It is JSON Lines, a JSON array, CSV or Parquet. A row has a question and an answer:

    {"messages": [{"role": "user", "content": "6*7?"}], "reference_answer": "42",
     "verifier": "math", "system": "…", "chat_template_kwargs": {…}, "id": "…", "metadata": {…}}

Only the first two fields are needed. The fields have other names too; `fields` lists them.

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

from tempo_storage.answers.numbers import only_number
from tempo_storage.errors import InvalidInputError, TooLargeError
from tempo_storage.labeled.formats import read_rows
from tempo_storage.labeled.line import Example, read_record
from tempo_storage.labeled.refusal import LineRefusedError, Note, shortened, shown
from tempo_storage.labeled.split import MIN_LABELED

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_LINES = 20_000
MIN_EXAMPLES = 8
MAX_LISTED_MESSAGES = 20
MAX_LISTED_RUNS = 10
EXAMPLES_PER_VERIFIER = 3
TOO_LARGE = "the file has more than 20,000 lines or 32 MiB; split it"

DUPLICATE = Note("duplicate", "the question is there already; kept once")
ASKED = Note("asked", "users asked it: it leaves the unlabeled pool")


@dataclass(frozen=True, slots=True)
class LineError:
    """The reason why a line is refused, with the remedy.

    `param` is the field by the name that the file uses, and `value` the beginning of its value.
    """

    line: int
    code: str
    param: str | None
    message: str
    value: str = ""

    @property
    def place(self) -> str:
        """The field and its value, as a message shows them; "" for a line without a field."""
        name = f"{self.param}: " if self.param else ""
        return f"{name}{self.value}: " if self.value else name


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
    verifiers: tuple[dict[str, Any], ...] = ()
    """For each verifier the number of distinct questions, and three of them as examples."""

    def summary(self) -> dict[str, Any]:
        """Return counts and warnings; each warning has its first line and the number of lines."""
        lines: dict[Note, list[int]] = {}
        for line, note in self.warnings:
            lines.setdefault(note, []).append(line)
        return {
            "examples": len(self.examples),
            "duplicates": len(lines.get(DUPLICATE, ())),
            "verifiers": list(self.verifiers),
            "warnings": [
                asdict(note) | {"line": numbers[0], "count": len(numbers)}
                for note, numbers in lines.items()
            ],
        }


def parse(
    content: bytes, verifiers: Collection[str], *, needs_reference: bool = True
) -> ParsedFile:
    """Read the rows of a file.

    `verifiers` are the names of the installed ones. Without `needs_reference` a row may have a
    question and no answer, as in a file of unlabeled questions. Raises TooLargeError for a file
    beyond the limits, and InvalidInputError for one of another format.
    """
    if len(content) > MAX_FILE_BYTES:
        raise TooLargeError(TOO_LARGE)
    examples: dict[str, Example] = {}
    errors: list[LineError] = []
    warnings: list[tuple[int, Note]] = []
    for count, row in enumerate(read_rows(content), start=1):
        if count > MAX_LINES:
            raise TooLargeError(TOO_LARGE)
        if row is None:
            continue
        try:
            if isinstance(row.fields, LineRefusedError):
                raise row.fields
            example, notes = read_record(
                row.fields, row.line, verifiers=verifiers, needs_reference=needs_reference
            )
        except LineRefusedError as error:
            errors.append(LineError(row.line, error.code, error.param, str(error), error.value))
            continue
        warnings += [(row.line, note) for note in (*row.notes, *notes)]
        first = examples.setdefault(example.content_hash, example)
        if first is example:
            continue
        if _conflicts(example, first.reference):
            errors.append(_conflict_error(example, f"line {first.line}"))
        else:
            warnings.append((row.line, DUPLICATE))
    return ParsedFile(
        examples=tuple(examples.values()),
        errors=tuple(errors),
        warnings=tuple(warnings),
        questions=len(examples),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        verifiers=_by_verifier(examples.values()),
    )


def reconcile(
    file: ParsedFile, references: Mapping[str, Sequence[Any]], asked_hashes: Collection[str]
) -> ParsedFile:
    """Return the file without the examples that an earlier file has labeled.

    `references` has, by content hash, the references in the ledger; another reference for the same
    question is a line error. `asked_hashes` are the loose hashes of the questions that users asked.
    """
    stored = [example for example in file.examples if example.content_hash in references]
    new = [example for example in file.examples if example.content_hash not in references]
    errors = list(file.errors)
    warnings = list(file.warnings)
    for example in stored:
        if _conflicts(example, references[example.content_hash]):
            remedy = (
                f"keep one, or correct that with `tempo labels replace {example.content_hash[:12]}`"
            )
            errors.append(_conflict_error(example, "an earlier file", remedy))
        else:
            warnings.append((example.line, DUPLICATE))
    warnings += [(example.line, ASKED) for example in new if example.loose_hash in asked_hashes]
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
    """Tell whether an example has another reference than this; a missing one is no conflict.

    Numbers that are equal, as `7` and `7.0`, are no conflict either.
    """
    if not reference or not example.reference or set(reference) == set(example.reference):
        return False
    numbers = {_number(one) for one in reference}
    return example.verifier != "numeric" or numbers != {_number(n) for n in example.reference}


def _number(text: str) -> Any:
    number = only_number(text)
    return text if number is None else (number.values, number.is_percent)


def _conflict_error(example: Example, place: str, remedy: str = "keep one") -> LineError:
    message = f"{place} has this question with another reference; {remedy}"
    value = shown(example.reference)
    name = example.reference_name
    return LineError(example.line, "conflicting_reference", name, message, value)


def _by_verifier(examples: Iterable[Example]) -> tuple[dict[str, Any], ...]:
    """Return count and first examples of each verifier, those of the most examples first."""
    groups: dict[str, dict[str, Any]] = {}
    for example in examples:
        empty = {"verifier": example.verifier, "count": 0, "examples": []}
        group = groups.setdefault(example.verifier, empty)
        group["count"] += 1
        if group["count"] <= EXAMPLES_PER_VERIFIER:
            question = shortened(example.messages[-1]["content"])
            reference = [shortened(one) for one in example.reference[:EXAMPLES_PER_VERIFIER]]
            shown_example = {"line": example.line, "question": question, "reference": reference}
            group["examples"].append(shown_example)
    return tuple(sorted(groups.values(), key=lambda group: -group["count"]))


def _listing(errors: Iterable[LineError]) -> list[str]:
    """Return each reason once, with its lines and the first value: a wrong file repeats itself."""
    groups: dict[tuple[str | None, str], list[LineError]] = {}
    for error in errors:
        groups.setdefault((error.param, error.message), []).append(error)
    listing = [
        f"{_runs(sorted({error.line for error in group}))}: {group[0].place}{group[0].message}"
        for group in groups.values()
    ]
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
