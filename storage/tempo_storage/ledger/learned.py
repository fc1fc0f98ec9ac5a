"""Trace questions to versions and back.

A version learned from all M-steps between the untrained state and its checkpoint. The ledger keeps
the loose hash of each question that an M-step used, so the answer stays known when the question
itself is pruned or erased.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from tempo_storage.ledger import audit, events
from tempo_storage.ledger.models import (
    Adapter,
    File,
    Iteration,
    Job,
    LearnedQuestion,
    Question,
)
from tempo_storage.ledger.tenants import ANONYMOUS
from tempo_storage.question_hash import loose_hash, old_hash


def record(s: Session, iteration: int, questions: Sequence[Question]) -> None:
    """Store the questions that the M-step of an iteration used, for each tenant that asked them.

    `questions` are the rows as they were when they were drawn; some may have been erased since.
    """
    hashes = {question.loose_hash for question in questions} - {""}
    columns = func.min(Question.id), Question.loose_hash, Question.tenant
    same = select(*columns).where(Question.loose_hash.in_(hashes))
    others = s.execute(same.group_by(Question.loose_hash, Question.tenant))
    rows = {question_id: (loose, tenant) for question_id, loose, tenant in others}
    rows |= {question.id: (question.loose_hash, question.tenant) for question in questions}
    s.add_all(
        LearnedQuestion(
            iteration=iteration, question_id=question_id, loose_hash=loose, tenant=tenant
        )
        for question_id, (loose, tenant) in rows.items()
    )


def question_ids(s: Session, checkpoint: str) -> list[str]:
    """Return the ids of the questions that a version with this checkpoint learned from."""
    learned = LearnedQuestion.iteration.in_(_ancestors(_steps(s), checkpoint))
    query = select(LearnedQuestion.question_id).where(learned).distinct()
    return list(s.scalars(query.order_by(LearnedQuestion.question_id)))


def versions_from(s: Session, question: str) -> list[int]:
    """Return the versions that learned from a question: its id, one of its hashes or its text.

    The text is that of the user's message alone, in any dress.
    """
    messages = [{"role": "user", "content": question}]
    hashes = {question, loose_hash(messages), old_hash(messages)}
    is_same = or_(Question.id == question, Question.content_hash == question)
    hashes |= set(s.scalars(select(Question.loose_hash).where(is_same)))
    same_id = LearnedQuestion.question_id == question
    hashes |= set(s.scalars(select(LearnedQuestion.loose_hash).where(same_id)))
    return _versions_that_learned(s, same_id, LearnedQuestion.loose_hash.in_(hashes - {""}))


def files(s: Session, checkpoint: str) -> list[File]:
    """Return the labeled files that a version with this checkpoint learned from, oldest first.

    Files that were deleted since are among them.
    """
    iterations = set(_ancestors(_steps(s), checkpoint))
    every = s.scalars(select(File).order_by(File.created_at))
    return [file for file in every if not iterations.isdisjoint(_iterations_with(s, file))]


def versions_from_files(s: Session, files: Iterable[File]) -> list[int]:
    """Return the versions that learned from any of these labeled files."""
    return _versions_after(s, set().union(*(_iterations_with(s, file) for file in files)))


def erase(s: Session, tenant: str) -> tuple[int, list[int]]:
    """Delete a tenant's questions; return their number, and the versions that learned from them.

    A version that learned from the same question of another tenant is among these versions. The
    question then belongs to the tenant that asked it next.
    """
    theirs = Question.tenant == tenant
    same = LearnedQuestion.loose_hash.in_(select(Question.loose_hash).where(theirs))
    versions = _versions_that_learned(s, LearnedQuestion.tenant == tenant, same)
    count = s.scalar(select(func.count()).select_from(Question).where(theirs)) or 0
    s.execute(delete(Question).where(theirs))
    other = aliased(Question)
    next_owner = select(other.tenant).where(other.pool_hash == Question.pool_hash)
    next_owner = next_owner.order_by(other.captured_at, other.tenant).limit(1)
    owned = update(Question).where(Question.owner == tenant)
    s.execute(owned.values(owner=next_owner.scalar_subquery()))
    data = {"tenant": tenant, "questions": count, "versions": versions}
    name = tenant or ANONYMOUS
    events.add(s, "questions.erased", f"{count} questions of {name} are erased", data=data)
    audit.record(s, "questions.erased", name, before={"questions": count}, after={"questions": 0})
    return count, versions


def _versions_that_learned(s: Session, *conditions: ColumnElement[bool]) -> list[int]:
    query = select(LearnedQuestion.iteration).where(or_(*conditions))
    return _versions_after(s, set(s.scalars(query.distinct())))


def _iterations_with(s: Session, file: File) -> set[int]:
    """Return the iterations that may have drawn examples of a file.

    An iteration draws examples between the start of its job and its own end.
    """
    query = select(Iteration.number).join(Job, Job.id == Iteration.job_id, isouter=True)
    query = query.where(Iteration.created_at >= file.created_at)
    if file.deleted_at is not None:
        query = query.where(func.coalesce(Job.started_at, 0.0) <= file.deleted_at)
    return set(s.scalars(query))


def _versions_after(s: Session, iterations: set[int]) -> list[int]:
    """Return the versions whose checkpoints come from one of these iterations."""
    steps = _steps(s)
    rows = s.execute(select(Adapter.version, Adapter.checkpoint).order_by(Adapter.version))
    return [v for v, checkpoint in rows if not iterations.isdisjoint(_ancestors(steps, checkpoint))]


def _steps(s: Session) -> dict[str, tuple[str, int]]:
    """Return by checkpoint its parent, and the number of the iteration that made it."""
    rows = s.execute(select(Iteration.checkpoint, Iteration.parent, Iteration.number))
    return {checkpoint: (parent, number) for checkpoint, parent, number in rows}


def _ancestors(steps: Mapping[str, tuple[str, int]], checkpoint: str) -> Iterator[int]:
    """Yield the iterations that led to a checkpoint, the last one first."""
    while checkpoint in steps:
        checkpoint, number = steps[checkpoint]
        yield number
