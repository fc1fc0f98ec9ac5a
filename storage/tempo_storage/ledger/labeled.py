"""Labeled files and their examples in the ledger."""

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.labeled.line import Example
from tempo_storage.labeled.split import assign
from tempo_storage.ledger.models import File, LabeledExample, Question
from tempo_storage.ledger.rows import require


def splits_of_new(s: Session, hashes: Collection[str]) -> dict[str, str]:
    """Return the split of each new example by its content hash.

    It depends on the number of stored examples.
    """
    return assign(hashes, **count(s))


def add_file(s: Session, file: File, examples: Sequence[Example]) -> None:
    """Store an uploaded file with its examples; delete their questions from the unlabeled pool.

    Call `training.lock` first: two uploads at once would both fill the held-out set.
    """
    splits = splits_of_new(s, [example.content_hash for example in examples])
    s.add(file)
    s.add_all(
        LabeledExample(
            content_hash=example.content_hash,
            file_id=file.id,
            messages=example.messages,
            chat_template_kwargs=example.chat_template_kwargs,
            reference=example.reference,
            verifier=example.verifier,
            details=example.details,
            split=splits[example.content_hash],
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


def examples(s: Session, split: str, *, limit: int | None = None) -> list[LabeledExample]:
    """Return the labeled examples of `train` or `held_out`, ordered by hash; at most `limit`."""
    query = select(LabeledExample).where(LabeledExample.split == split)
    return list(s.scalars(query.order_by(LabeledExample.content_hash).limit(limit)))


def held_out(s: Session, *, limit: int) -> list[LabeledExample]:
    """Return the first `limit` held-out examples by hash, the same ones each time: the gate's."""
    return examples(s, "held_out", limit=limit)


def random_half(s: Session, *, limit: int) -> list[LabeledExample]:
    """Return a random half of the held-out examples, drawn anew at each call: the sentinel's.

    It has at most `limit` examples, and at least one if one is held out.
    """
    every = examples(s, "held_out")
    size = min(max(len(every) // 2, 1), limit, len(every))
    return random.sample(every, size)


def digest(examples: Iterable[LabeledExample]) -> str:
    """Return the sha256 of the hashes and references of these examples, in any order."""
    ordered = sorted(examples, key=lambda example: example.content_hash)
    rows = [[example.content_hash, example.reference] for example in ordered]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def held_out_digest(s: Session) -> str:
    """Return the digest of all held-out examples."""
    return digest(examples(s, "held_out"))


def count(s: Session) -> dict[str, int]:
    """Return the number of labeled examples of each split."""
    rows = s.execute(select(LabeledExample.split, func.count()).group_by(LabeledExample.split))
    return {"train": 0, "held_out": 0} | {split: count for split, count in rows}


def references(s: Session, hashes: Sequence[str]) -> dict[str, list[Any]]:
    """Return by hash the reference of each of these questions that is labeled."""
    query = select(LabeledExample).where(LabeledExample.content_hash.in_(hashes))
    return {example.content_hash: example.reference for example in s.scalars(query)}
