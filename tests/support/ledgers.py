"""Ledgers and the rows that tests put into them.

def test_x(sessions):                      # the fixture in tests/conftest.py
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2, parent=1)])
        s.add_all([labeled_file(), labeled("1 + 1"), held_out("2 + 2")])
        ledger.pool.add(s, [captured("a", "3 + 3")])
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import Adapter, File, Iteration, LabeledExample
from tempo_storage.ledger.sessions import open_database
from tempo_storage.question_hash import content_hash, loose_hash

LEASE_SECONDS = 60.0


@contextmanager
def sqlite_ledger(directory: Path) -> Iterator[sessionmaker[Session]]:
    """Open the ledger of a data directory, an empty one where there is none; then close it."""
    with opened(f"sqlite:///{directory / 'tempo.db'}") as sessions:
        yield sessions


@contextmanager
def opened(url: str) -> Iterator[sessionmaker[Session]]:
    """Open the ledger at an SQLAlchemy URL; close its connections at the end of the block."""
    sessions = open_database(url)
    try:
        yield sessions
    finally:
        sessions.kw["bind"].dispose()


def hold_lease(sessions: sessionmaker[Session], owner: str = "me") -> int:
    """Take the trainer's lease and return its epoch, which is 1 in a new ledger."""
    with sessions.begin() as s:
        epoch = ledger.leases.acquire(s, owner, LEASE_SECONDS)
    assert epoch is not None
    return epoch


# Rows --------------------------------------------------------------------------------------------


def user(text: str) -> list[dict[str, Any]]:
    """Return the messages of a chat with one question."""
    return [{"role": "user", "content": text}]


def captured(id: str, text: str, **fields: Any) -> dict[str, Any]:
    """Return a captured question as the stream holds it; `ledger.pool.add` stores it."""
    return {"id": id, "messages": user(text), "captured_at": time.time()} | fields


def candidate(version: int, status: str = "candidate", **fields: Any) -> Adapter:
    """Return the row of a version; `fields` replace the defaults of its columns."""
    defaults: dict[str, Any] = {
        "parent": 0,
        "job_id": "job",
        "checkpoint": "",
        "sha256": "",
        "bytes": 1,
        "lineage": {},
        "report": {},
        "created_at": float(version),
    }
    return Adapter(version=version, status=status, **(defaults | fields))


def labeled(text: str, split: str = "train", **fields: Any) -> LabeledExample:
    """Return a labeled example for the verifier `exact`."""
    defaults: dict[str, Any] = {
        "content_hash": content_hash(user(text)),
        "loose_hash": loose_hash(user(text)),
        "file_id": labeled_file().id,
        "messages": user(text),
        "chat_template_kwargs": {},
        "reference": ["1"],
        "verifier": "exact",
        "details": {},
    }
    return LabeledExample(split=split, **(defaults | fields))


def held_out(text: str, **fields: Any) -> LabeledExample:
    """Return a labeled example on which nothing trains."""
    return labeled(text, "held_out", **fields)


def labeled_file(id: str = "file", **fields: Any) -> File:
    """Return the row of an uploaded file; labeled() names the one with the default id."""
    defaults: dict[str, Any] = {
        "filename": "labeled.jsonl",
        "bytes": 1,
        "sha256": "",
        "summary": {},
        "created_at": 0.0,
    }
    return File(id=id, **(defaults | fields))


def iteration(job_id: str, position: int, **fields: Any) -> Iteration:
    """Return a committed iteration, whose checkpoint is named as the learner names it."""
    defaults: dict[str, Any] = {
        "checkpoint": f"{job_id}-{position}",
        "parent": "",
        "question_ids": [],
        "metrics": {},
        "epoch": 1,
    }
    return Iteration(job_id=job_id, position=position, **(defaults | fields))


def labeled_set(*, train: int, held_out: int) -> list[LabeledExample]:
    """Return sums of both splits; all references differ."""
    splits = ["train"] * train + ["held_out"] * held_out
    return [labeled(f"{n} + {n}", split, reference=[str(2 * n)]) for n, split in enumerate(splits)]
