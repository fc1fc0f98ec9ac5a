"""The names of the fields that a labeled file may have: the one table of aliases.

The table of the page clients/docs/labeled_file.md is the output of this module:

    python -m tempo_storage.labeled.fields

Names are compared without case, spaces, hyphens and underscores: `Correct Answer` is
`correct_answer`.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

USUAL_NAMES = ("question", "answer")
"""Aliases that all our pages use. A note about them would only be noise."""

SEPARATORS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a line. The first of its `aliases` that has a value counts.

    `a.b` is the entry `b` of the object in the field `a`.
    """

    name: str
    meaning: str
    aliases: tuple[str, ...]


QUESTION = Field(
    "messages",
    "the question: a text, or a chat that ends with the user's message or with the right answer",
    (
        *("messages", "conversations", "conversation", "question.stem", "question.text"),
        *("question", "prompt", "problem", "query"),
        *("instruction", "question_text", "problem_text", "question_stem", "question_content"),
        *("task", "input.messages", "input", "inputs", "ctx", "sQuestion"),
    ),
)
ANSWERS = (
    *("reference_answer", "final_answer", "answer", "correct_answer", "expected_answer"),
    *("ground_truth", "reward_model.ground_truth", "gold_answer", "gold", "answers"),
    *("answers_spans", "answer_key", "correct", "answer_idx", "answer_index", "label", "cop"),
    *("answer_number", "answer_text", "answer_value", "final_ans", "target", "expected_output"),
    *("ideal", "exact_answer", "best_answer", "right_answer", "correct_option", "correct_choice"),
    *("answer_letter", "gold_label", "final_decision", "expected", "correct_answer_id", "targets"),
    *("correct_answer_index", "correct_index", "correct_label", "golden_answers", "lSolutions"),
)
# A whole number in one of these counts the options. Without options it is no answer.
INDICES = (
    *("answer_idx", "answer_index", "label", "cop", "correct_option", "correct_choice"),
    *("gold_label", "correct_answer_id", "correct_answer_index", "correct_index", "correct_label"),
)
# The text of a solution. It counts only if no answer has a value, and only its final answer counts.
SOLUTIONS = (
    *("solution", "solutions", "worked_solution", "rationale", "response", "completion", "output"),
    *("chosen", "preferred_output", "reference"),
)
REFERENCE = Field(
    "reference_answer",
    "the right answer, or a list of answers that are equally right; of a solution's text the"
    " final answer counts",
    (*ANSWERS, *SOLUTIONS),
)
OPTIONS = Field(
    "options",
    "the options of a choice, appended to the question as `A. …`; also one field for each:"
    " `A`, `B`, …, `option_a`, …, `option1`, …, `opa`, …",
    (
        *("options", "choices", "endings", "question.choices", "choice", "answer_choices"),
        "multiple_choice_targets",
    ),
)
CONTEXT = Field(
    "context",
    "a text that stands before the question (`input`: after it), unless the question is a chat",
    (
        *("context.contexts", "context", "passage", "article", "paragraph", "background", "body"),
        *("story", "input", "premise", "dialogue", "dialog", "transcript", "document"),
        *("documents", "evidence", "table", "text"),
    ),
)
SYSTEM = Field("system", "the system message", ("system", "system_prompt", "system_message"))
VERIFIER = Field(
    "verifier", "the verifier; by default the one that suits the answer", ("verifier",)
)
METADATA = Field("metadata", "an object for the verifier, such as `tolerance`", ("metadata",))
ID = Field("id", "your own name for the question", ("id",))
TEMPLATE = Field(
    "chat_template_kwargs", "arguments of the chat template", ("chat_template_kwargs",)
)
TABLE = (QUESTION, REFERENCE, OPTIONS, CONTEXT, SYSTEM, VERIFIER, METADATA, ID, TEMPLATE)
# A question that needs one of these cannot be asked as text.
UNUSABLE = re.compile(
    r"(?:decoded)?images?(?:path|url|file|bytes)?s?\d*|pictures?|figures?|videos?|audios?"
)
TOOLS = ("tools", "functions")
# A field that holds the whole row, in exports of OpenAI's evaluations and of Hugging Face.
WRAPPERS = ("item", "row", "example")


@dataclass(frozen=True, slots=True)
class Entry:
    """A field of a line: its name as the line spells it, the alias that it is, and its value."""

    name: str
    alias: str
    value: Any

    @property
    def is_empty(self) -> bool:
        """Whether the value is blank, or a list or an object without entries."""
        return is_empty(self.value)


class Record:
    """The fields of one line, which are found by each of their aliases."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self._values = dict(fields)
        for name, value in fields.items():
            if isinstance(value, dict):
                self._values |= {f"{name}.{entry}": value[entry] for entry in value}
        self._names: dict[str, str] = {}
        for name in self._values:
            self._names.setdefault(_plain(name), name)

    def find(self, field: Field) -> Entry | None:
        """Return the first alias of a field that has a value; null is none.

        Empty values count only if no alias has another value.
        """
        entries = self.find_all(field.aliases)
        first = entries[0] if entries else None
        return next((entry for entry in entries if not entry.is_empty), first)

    def find_all(self, aliases: tuple[str, ...]) -> list[Entry]:
        """Return all of these aliases that are not null."""
        names = {
            alias: alias if alias in self._values else self._names.get(_plain_alias(alias))
            for alias in aliases
        }
        entries = [Entry(name, alias, self._values[name]) for alias, name in names.items() if name]
        return [entry for entry in entries if entry.value is not None]

    def rest(self, names: set[str]) -> dict[str, Any]:
        """Return the fields that have none of these names, sorted."""
        used = names | {name.partition(".")[0] for name in names}
        return {name: self.fields[name] for name in sorted(self.fields.keys() - used)}


def is_empty(value: Any) -> bool:
    """Tell whether a value is null, blank, or a list or an object without entries."""
    return value in (None, [], {}) or (isinstance(value, str) and not value.strip())


def is_unusable(name: str) -> bool:
    """Tell whether a field of this name has a picture, a sound or a film."""
    return UNUSABLE.fullmatch(_plain(name)) is not None


def markdown() -> str:
    """Return the table of all fields with their aliases."""
    rows = ["| field | other names | meaning |", "|---|---|---|"]
    for field in TABLE:
        others = ", ".join(f"`{alias}`" for alias in field.aliases if alias != field.name)
        rows.append(f"| `{field.name}` | {others} | {field.meaning} |")
    return "\n".join(rows)


@cache  # of the aliases of the table, which are few
def _plain_alias(alias: str) -> str:
    return _plain(alias)


def _plain(name: str) -> str:
    return SEPARATORS.sub("", name).lower()


if __name__ == "__main__":
    print(markdown())
