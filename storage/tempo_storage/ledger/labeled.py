"""Labeled files and their examples in the ledger."""

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.labeled.line import Example
from tempo_storage.labeled.split import assign
from tempo_storage.ledger import audit, events
from tempo_storage.ledger.models import File, FileExample, LabeledExample, Question
from tempo_storage.ledger.rows import require


def splits_of_new(s: Session, examples: Collection[Example]) -> dict[str, str]:
    """Return the split of each new example by its content hash.

    An example that was deleted returns to its split. Examples with one `_split_key` share a split.
    The splits of the others depend on the number of stored examples.
    """
    earlier = select(FileExample.content_hash, FileExample.split)
    hashes = [example.content_hash for example in examples]
    rows = s.execute(earlier.where(FileExample.content_hash.in_(hashes)))
    splits = {content_hash: split for content_hash, split in rows}
    counts = Counter(count(s))
    counts.update(splits.values())
    loose_hashes = [example.loose_hash for example in examples]
    same = select(LabeledExample).where(LabeledExample.loose_hash.in_(loose_hashes))
    of_key = {_split_key(example): example.split for example in s.scalars(same)}
    of_key |= {_split_key(e): splits[e.content_hash] for e in examples if e.content_hash in splits}
    of_key |= assign({_split_key(example) for example in examples} - of_key.keys(), **counts)
    return {e.content_hash: splits.get(e.content_hash, of_key[_split_key(e)]) for e in examples}


def _split_key(example: Example | LabeledExample) -> str:
    """Return the loose hash of a question of one message, or else the content hash.

    Otherwise the critic would learn from a held-out question in another dress. With a system
    message or earlier turns the last text may be "Solve the task above." for every question.
    """
    return example.loose_hash if len(example.messages) == 1 else example.content_hash


def add_file(
    s: Session, file: File, examples: Sequence[Example], duplicates: Collection[str] = ()
) -> None:
    """Store an uploaded file with its examples; delete their questions from the unlabeled pool.

    `duplicates` are the content hashes of its other questions, which are stored already. Call
    `training.lock` first: two uploads at once would both fill the held-out set.
    """
    splits = splits_of_new(s, examples)
    s.add(file)
    s.add_all(
        LabeledExample(
            content_hash=example.content_hash,
            loose_hash=example.loose_hash,
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
    hashes = LabeledExample.content_hash.in_([*splits, *duplicates])
    rows = s.execute(select(LabeledExample.content_hash, LabeledExample.split).where(hashes))
    s.add_all(FileExample(file_id=file.id, content_hash=h, split=split) for h, split in rows)
    audit.record(s, "labels.uploaded", file.id, after={"labels": len(splits)})
    labeled = select(LabeledExample.loose_hash)
    s.execute(delete(Question).where(Question.loose_hash.in_(labeled)))


def files(s: Session, *, sha256: str | None = None) -> list[File]:
    """Return the uploaded files, or those with this content, newest first; no deleted ones."""
    query = select(File).where(File.deleted_at.is_(None))
    query = query if sha256 is None else query.where(File.sha256 == sha256)
    return list(s.scalars(query.order_by(File.created_at.desc())))


def file(s: Session, file_id: str) -> File:
    """Return one file; raise NotFoundError for an unknown or a deleted one."""
    row = s.get(File, file_id)
    return require(row if row is not None and row.deleted_at is None else None, "file", file_id)


def delete_file(s: Session, file_id: str) -> tuple[File, int]:
    """Delete a file and its examples; return its row and the number of deleted examples.

    An example that another file labels, too, stays.
    """
    row = file(s, file_id)
    row.deleted_at = time.time()
    s.flush()
    others = select(FileExample.content_hash).join(File, File.id == FileExample.file_id)
    gone = (
        LabeledExample.content_hash.in_(_hashes_of(file_id)),
        LabeledExample.content_hash.not_in(others.where(File.deleted_at.is_(None))),
    )
    examples = s.scalar(select(func.count()).select_from(LabeledExample).where(*gone)) or 0
    s.execute(delete(LabeledExample).where(*gone))
    audit.record(s, "labels.deleted", file_id, before={"labels": examples}, after={"labels": 0})
    return row, examples


def replace(s: Session, row: LabeledExample, *, reference: list[Any], verifier: str) -> None:
    """Replace the answer of a label; the audit has the number of its answers, and no answer."""
    before = {"verifier": row.verifier, "answers": len(row.reference)}
    after = {"verifier": verifier, "answers": len(reference)}
    audit.record(s, "label.replaced", row.content_hash, before=before, after=after)
    row.reference = reference
    row.verifier = verifier
    events.add(s, "label.replaced", f"the answer of label {row.content_hash} was replaced")


def remove(s: Session, row: LabeledExample) -> None:
    """Remove a label."""
    audit.record(s, "label.removed", row.content_hash, before={"split": row.split})
    s.delete(row)
    events.add(s, "label.removed", f"label {row.content_hash} was removed")


def removed(s: Session) -> set[str]:
    """Return the content hashes of the questions that had a label once and have none now."""
    stored = select(LabeledExample.content_hash)
    query = select(FileExample.content_hash).where(FileExample.content_hash.not_in(stored))
    return set(s.scalars(query))


def files_with(s: Session, content_hash: str) -> list[File]:
    """Return the files that label a question, also deleted ones."""
    query = select(File).join(FileExample, FileExample.file_id == File.id)
    return list(s.scalars(query.where(FileExample.content_hash == content_hash)))


def example(s: Session, name: str) -> LabeledExample:
    """Return one example by its content hash, or by the beginning of it; raise NotFoundError."""
    same = LabeledExample.content_hash.startswith(name, autoescape=True)
    rows = s.scalars(select(LabeledExample).where(same).limit(2)).all()
    return require(rows[0] if len(rows) == 1 else None, "label", name)


def page(
    s: Session,
    *,
    after: str,
    limit: int,
    splits: Collection[str] = ("train", "held_out"),
    file_id: str | None = None,
) -> list[LabeledExample]:
    """Return the `limit` examples whose content hashes follow `after`, of these splits.

    With `file_id` return only those that this file labels.
    """
    query = select(LabeledExample).where(LabeledExample.content_hash > after)
    query = query.where(LabeledExample.split.in_(splits))
    if file_id is not None:
        query = query.where(LabeledExample.content_hash.in_(_hashes_of(file_id)))
    return list(s.scalars(query.order_by(LabeledExample.content_hash).limit(limit)))


def _hashes_of(file_id: str) -> Select[str]:
    return select(FileExample.content_hash).where(FileExample.file_id == file_id)


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


def loose_hashes(s: Session, hashes: Sequence[str]) -> set[str]:
    """Return the loose hashes, out of `hashes`, of labeled questions."""
    query = select(LabeledExample.loose_hash).where(LabeledExample.loose_hash.in_(hashes))
    return set(s.scalars(query))


def references(s: Session, hashes: Sequence[str]) -> dict[str, list[Any]]:
    """Return by hash the reference of each of these questions that is labeled."""
    query = select(LabeledExample).where(LabeledExample.content_hash.in_(hashes))
    return {example.content_hash: example.reference for example in s.scalars(query)}
