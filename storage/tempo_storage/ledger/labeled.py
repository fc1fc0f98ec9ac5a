"""Labeled files and their examples in the ledger."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.labeled.line import Example
from tempo_storage.ledger.models import File, LabeledExample, Question
from tempo_storage.ledger.rows import found
from tempo_storage.questions import is_for_sentinel

MIN_HALF = 64  # held-out questions: eight answers to each tell a loss of six points


def add_file(s: Session, file: File, examples: Iterable[Example]) -> None:
    """Store an uploaded file with its examples; what it labels leaves the unlabeled pool."""
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
    return found(s.get(File, file_id), "file", file_id)


def examples(s: Session, split: str) -> list[LabeledExample]:
    """Return the labeled examples of `train` or `held_out`, in a stable order."""
    query = select(LabeledExample).where(LabeledExample.split == split)
    return list(s.scalars(query.order_by(LabeledExample.content_hash)))


def held_out(
    s: Session, reader: Literal["gate", "sentinel"], *, most: int
) -> tuple[list[LabeledExample], str]:
    """Return the held-out examples of the gate or the sentinel, and whether they are a half.

    The sentinel judges by questions that let nothing pass. Where a half would be too few to judge
    by, both read all. Of more than `most` those with the least hashes are taken, always the same.
    """
    every = examples(s, "held_out")
    halves: dict[str, list[LabeledExample]] = {"gate": [], "sentinel": []}
    for example in every:
        halves["sentinel" if is_for_sentinel(example.content_hash) else "gate"].append(example)
    if min(map(len, halves.values())) < MIN_HALF:
        return every[:most], f"all {len(every)}, a half has fewer than {MIN_HALF}"
    return halves[reader][:most], f"the {reader}'s half of {len(every)}"


def count(s: Session) -> dict[str, int]:
    """Return the number of labeled examples of each split."""
    rows = s.execute(select(LabeledExample.split, func.count()).group_by(LabeledExample.split))
    return {"train": 0, "held_out": 0} | {split: count for split, count in rows}


def references(s: Session, hashes: Sequence[str]) -> dict[str, list[Any]]:
    """Return the references of those contents that are labeled already."""
    query = select(LabeledExample).where(LabeledExample.content_hash.in_(hashes))
    return {e.content_hash: e.reference for e in s.scalars(query)}
