"""The questions of a study, read from JSON lines; hidden answers are kept apart from them.

{"question": "…", "answer": "42"}
{"messages": […], "reference_answer": […], "verifier": "exact", "metadata": {…}}
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo_storage.errors import InvalidInputError
from tempo_storage.questions import content_hash, is_held_out

FORM = '{"question": "…", "answer": "…"}'


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a user asks it, and the verifier that can read answers to it."""

    id: str
    messages: Sequence[Mapping[str, str]]
    verifier: str
    metadata: Mapping[str, Any]


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
        """Return the questions of which something holds."""
        kept = tuple(question for question in self.questions if holds(question))
        answers = {q.id: self.answers[q.id] for q in kept if q.id in self.answers}
        return QuestionSet(kept, answers)


@dataclass(frozen=True, slots=True)
class Data:
    """The questions of a run; `measured` are the sets whose answers are known."""

    train: QuestionSet
    held_out: QuestionSet
    unlabeled: QuestionSet
    measured: dict[str, QuestionSet]

    @classmethod
    def load(cls, labeled: str, unlabeled: str, unseen: str = "") -> "Data":
        """Read three files; one labeled question in five is held out, as in the worker.

        A question counts where it stands first: labeled, unlabeled, unseen.
        """
        known = read(labeled)
        if not known.answered:
            found = f"{len(known.answers)} answers to {len(known.questions)} questions"
            raise InvalidInputError(f"{labeled}: {found}; write {FORM} on each line")
        train = known.where(lambda q: not is_held_out(q.id))
        judging = known.where(lambda q: is_held_out(q.id))
        asked = read(unlabeled).where(lambda q: q.id not in known.answers)
        for part, what in ((train, "train on"), (judging, "be held out"), (asked, "adapt to")):
            if not part.questions:
                raise InvalidInputError(
                    f"no question of {labeled}, {unlabeled} to {what}; add some"
                )
        used = {*known.answers, *(q.id for q in asked.questions)}
        others = read(unseen).where(lambda q: q.id not in used) if unseen else QuestionSet((), {})
        for path, part, wanted in ((unlabeled, asked, False), (unseen, others, bool(unseen))):
            if (part.answers or wanted) and not part.answered:
                found = f"{len(part.answers)} answers to {len(part.questions)} questions of its own"
                raise InvalidInputError(f"{path}: {found}; answer all, so that they measure")
        sets = {"adapted": asked, "unseen": others}
        measured = {name: questions for name, questions in sets.items() if questions.answered}
        return cls(train, judging, asked, measured or {"held_out": judging})


def read(path: str) -> QuestionSet:
    """Read a file; a question that comes twice counts once, as it came first."""
    questions: dict[str, Question] = {}
    answers: dict[str, Sequence[str]] = {}
    for number, text in enumerate(Path(path).read_text().splitlines(), start=1):
        try:
            row: dict[str, Any] = json.loads(text)
            asked = row.get("messages") or [{"role": "user", "content": row["question"]}]
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidInputError(f"{path}, line {number}: {error!r}; write {FORM}") from error
        own = content_hash(asked)
        if own in questions:
            continue
        verifier, metadata = row.get("verifier", "math"), row.get("metadata", {})
        questions[own] = Question(own, asked, verifier, metadata)
        if (reference := row.get("reference_answer", row.get("answer"))) is not None:
            accepted = reference if isinstance(reference, list) else [reference]
            answers[own] = [str(one) for one in accepted]
    return QuestionSet(tuple(questions.values()), answers)
