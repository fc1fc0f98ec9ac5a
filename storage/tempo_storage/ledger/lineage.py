"""Which questions a version learned from, and which versions learned from a question.

A version learned from the M-steps between the untrained state and its checkpoint. What they
learned from is known by content too, so that it stays known when the question itself is gone.
"""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from tempo_storage.ledger import events
from tempo_storage.ledger.models import Adapter, Iteration, LearnedQuestion, Question
from tempo_storage.questions import content_hash


def record(s: Session, iteration: int, drawn: Sequence[Question]) -> None:
    """Note what an iteration's M-step learned from, for each tenant that asked it.

    `drawn` are the rows as they were when they were drawn: what was erased since is noted, too.
    """
    contents = {question.content_hash for question in drawn} - {""}
    columns = func.min(Question.id), Question.content_hash, Question.tenant
    asked = select(*columns).where(Question.content_hash.in_(contents))
    others = s.execute(asked.group_by(Question.content_hash, Question.tenant))
    rows = {question_id: (content, tenant) for question_id, content, tenant in others}
    rows |= {question.id: (question.content_hash, question.tenant) for question in drawn}
    s.add_all(
        LearnedQuestion(
            iteration=iteration, question_id=question_id, content_hash=content, tenant=tenant
        )
        for question_id, (content, tenant) in rows.items()
    )


def question_ids(s: Session, checkpoint: str) -> list[str]:
    """Return the ids of the questions that a version with this checkpoint learned from."""
    learned = LearnedQuestion.iteration.in_(_ancestry(_steps(s), checkpoint))
    query = select(LearnedQuestion.question_id).where(learned).distinct()
    return list(s.scalars(query.order_by(LearnedQuestion.question_id)))


def learned_from(s: Session, question: str) -> list[int]:
    """Return the versions that learned from a question: its id, its content hash or its text."""
    contents = {question, content_hash([{"role": "user", "content": question}])}
    for kind in (Question.id, LearnedQuestion.question_id):
        contents |= set(s.scalars(select(kind.class_.content_hash).where(kind == question)))
    same_id = LearnedQuestion.question_id == question
    return _learned(s, same_id, LearnedQuestion.content_hash.in_(contents - {""}))


def erase(s: Session, tenant: str) -> tuple[int, list[int]]:
    """Delete a tenant's questions; return how many, and the versions that learned from them.

    Those that learned from the same content are among them, whoever asked. What is still on its
    way from the server to the ledger arrives later: erase once more when nothing is under way.
    """
    theirs = Question.tenant == tenant
    same = LearnedQuestion.content_hash.in_(select(Question.content_hash).where(theirs))
    found = _learned(s, LearnedQuestion.tenant == tenant, same)
    erased = s.scalar(select(func.count()).select_from(Question).where(theirs)) or 0
    s.execute(delete(Question).where(theirs))
    data = {"tenant": tenant, "questions": erased, "versions": found}
    events.add(s, "questions.erased", f"{erased} questions of {tenant} are erased", data=data)
    return erased, found


def _learned(s: Session, *which: ColumnElement[bool]) -> list[int]:
    iterations = set(s.scalars(select(LearnedQuestion.iteration).where(or_(*which)).distinct()))
    steps = _steps(s)
    rows = s.execute(select(Adapter.version, Adapter.checkpoint).order_by(Adapter.version))
    return [v for v, checkpoint in rows if not iterations.isdisjoint(_ancestry(steps, checkpoint))]


def _steps(s: Session) -> dict[str, tuple[str, int]]:
    rows = s.execute(select(Iteration.checkpoint, Iteration.parent, Iteration.number))
    return {checkpoint: (parent, number) for checkpoint, parent, number in rows}


def _ancestry(steps: Mapping[str, tuple[str, int]], checkpoint: str) -> Iterator[int]:
    while checkpoint in steps:
        checkpoint, number = steps[checkpoint]
        yield number
