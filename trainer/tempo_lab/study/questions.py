"""The questions of a study; hidden answers are kept apart from them.

The files are read by the reader of uploads, so a study takes every line that an upload takes:

{"question": "…", "answer": "42"}
{"messages": […], "reference_answer": […], "verifier": "exact", "metadata": {…}}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.file import parse, raise_if_unusable
from tempo_storage.labeled.split import assign
from tempo_storage.question_hash import loose_hash
from tempo_trainer.sampling import verifiers

FORM = '{"question": "…", "answer": "…"}'
ALL_OR_NONE = " of its own; answer all, so that they measure"


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a user asks it, and the verifier that can read answers to it."""

    id: str
    messages: Sequence[Mapping[str, str]]
    verifier: str
    metadata: Mapping[str, Any]
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template that renders the question."""

    @property
    def loose_hash(self) -> str:
        """The key by which questions in other dress are the same."""
        return loose_hash(self.messages)


Answers = Mapping[str, Sequence[str]]
"""The accepted answers by question id."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions in the order of their file, and the answers to those that have one."""

    questions: tuple[Question, ...]
    answers: Answers

    @property
    def answered(self) -> bool:
        """Whether every question has an answer, so that the set can be measured."""
        return len(self.answers) == len(self.questions) > 0

    def where(self, holds: Callable[[Question], bool]) -> "QuestionSet":
        """Return the questions for which `holds` is true."""
        questions = tuple(question for question in self.questions if holds(question))
        answers = {q.id: self.answers[q.id] for q in questions if q.id in self.answers}
        return QuestionSet(questions, answers)

    def raise_unless_answered(self, path: str, remedy: str) -> None:
        """Raise InvalidInputError unless every question of the file has an answer."""
        if not self.answered:
            counts = f"{len(self.answers)} answers to {len(self.questions)} questions"
            raise InvalidInputError(f"{path}: {counts}{remedy}")


@dataclass(frozen=True, slots=True)
class Data:
    """The questions of a run; `measured` are the sets whose answers are known."""

    train: QuestionSet
    held_out: QuestionSet
    unlabeled: QuestionSet
    measured: dict[str, QuestionSet]

    @classmethod
    def load(cls, labeled: str, unlabeled: str, unseen: str = "") -> "Data":
        """Read three files; labeled questions are held out as in a ledger that had none before.

        A question that is in several files counts in the first of them: labeled, unlabeled, unseen.
        Raises InvalidInputError for a file that cannot be used.
        """
        with_labels = read(labeled, needs_answers=True)
        with_labels.raise_unless_answered(labeled, f"; write {FORM} on each line")
        splits = assign({q.loose_hash for q in with_labels.questions}, train=0, held_out=0)
        train = with_labels.where(lambda q: splits[q.loose_hash] == "train")
        held_out = with_labels.where(lambda q: splits[q.loose_hash] == "held_out")
        adapted = read(unlabeled).where(lambda q: q.loose_hash not in splits)
        for part, purpose in ((train, "train on"), (held_out, "hold out"), (adapted, "adapt to")):
            if not part.questions:
                raise InvalidInputError(
                    f"{labeled} and {unlabeled} have no question to {purpose}; add some"
                )
        used = {*splits, *(q.loose_hash for q in adapted.questions)}
        others = QuestionSet((), {})
        if unseen:
            others = read(unseen).where(lambda q: q.loose_hash not in used)
        if adapted.answers:
            adapted.raise_unless_answered(unlabeled, ALL_OR_NONE)
        if unseen:
            others.raise_unless_answered(unseen, ALL_OR_NONE)
        sets = {"adapted": adapted, "unseen": others}
        measured = {name: questions for name, questions in sets.items() if questions.answered}
        return cls(train, held_out, adapted, measured or {"held_out": held_out})


def read(path: str, *, needs_answers: bool = False) -> QuestionSet:
    """Read a file as an upload reads it; a question that is in it twice counts once.

    Without `needs_answers` a line may have a question and no answer. Raises InvalidInputError with
    all lines that cannot be used. Unlike an upload, it does not ask the verifiers about answers.
    """
    try:
        file = parse(Path(path).read_bytes(), verifiers.names(), needs_reference=needs_answers)
        raise_if_unusable(file)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    return QuestionSet(
        tuple(
            Question(e.content_hash, e.messages, e.verifier, e.details, e.chat_template_kwargs)
            for e in file.examples
        ),
        {e.content_hash: e.reference for e in file.examples if e.reference},
    )
