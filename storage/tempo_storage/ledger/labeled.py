"""Labeled files and their examples in the ledger."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.labeled.line import Example
from tempo_storage.ledger.models import File, LabeledExample, Question
from tempo_storage.ledger.rows import require
from tempo_storage.question_hash import is_for_sentinel

# Held-out questions of a half. With eight answers to each, 64 show a loss of six points.
MIN_HALF = 64


def add_file(s: Session, file: File, examples: Iterable[Example]) -> None:
    """Store an uploaded file with its examples; delete their questions from the unlabeled pool."""
    s.add(file)
    s.add_all(
        LabeledExample(
            content_hash=example.content_hash,
            file_id=file.id,
            messages=example.messages,
            reference=example.reference,
            verifier=example.verifier,
            details=example.details,
            split=example.split,
        )
        for example in examples
    )
    s.flush()
    labeled = select(LabeledExample.content_hash)
    s.execute(delete(Question).where(Question.content_hash.in_(labeled)))


def files(s: Session) -> list[File]:
    """Return the uploaded files, newest first."""
    return list(s.scalars(select(File).order_by(File.created_at.desc())))


def file(s: Session, file_id: str) -> File:
    """Return one file or raise NotFoundError."""
    return require(s.get(File, file_id), "file", file_id)


def examples(s: Session, split: str) -> list[LabeledExample]:
    """Return the labeled examples of `train` or `held_out`, ordered by hash."""
    query = select(LabeledExample).where(LabeledExample.split == split)
    return list(s.scalars(query.order_by(LabeledExample.content_hash)))


def held_out(
    s: Session, reader: Literal["gate", "sentinel"], *, limit: int
) -> tuple[list[LabeledExample], str]:
    """Return up to `limit` held-out examples for the gate or the sentinel, and a note for people.

    Each has a half of its own: the sentinel uses questions that the gate did not use. If a half
    has fewer than MIN_HALF questions, both use all of them. The note says which case holds. The
    examples with the smallest hashes come first, so `limit` of them are the same ones each time.
    """
    every = examples(s, "held_out")
    halves: dict[str, list[LabeledExample]] = {"gate": [], "sentinel": []}
    for example in every:
        halves["sentinel" if is_for_sentinel(example.content_hash) else "gate"].append(example)
    if min(map(len, halves.values())) < MIN_HALF:
        return every[:limit], f"all {len(every)}, a half has fewer than {MIN_HALF}"
    return halves[reader][:limit], f"the {reader}'s half of {len(every)}"


def count(s: Session) -> dict[str, int]:
    """Return the number of labeled examples of each split."""
    rows = s.execute(select(LabeledExample.split, func.count()).group_by(LabeledExample.split))
    return {"train": 0, "held_out": 0} | {split: count for split, count in rows}


def references(s: Session, hashes: Sequence[str]) -> dict[str, list[Any]]:
    """Return by hash the reference of each of these questions that is labeled."""
    query = select(LabeledExample).where(LabeledExample.content_hash.in_(hashes))
    return {example.content_hash: example.reference for example in s.scalars(query)}
