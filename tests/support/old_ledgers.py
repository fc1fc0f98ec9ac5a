"""The ledger as version 0.1 left it, for the tests of the migrations.

The tables are written out here: the classes in models.py describe today's.
"""

import json
from dataclasses import astuple
from typing import Any

from ledgers import user
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.decoding import Decoding
from tempo_storage.ledger.models import (
    Adapter,
    Iteration,
    Job,
    LabeledExample,
    LearnedQuestion,
    Question,
    ServerProcess,
)
from tempo_storage.question_hash import content_hash, loose_hash, old_hash

VERSION_0_1 = ("m001_initial", "m002_lineage", "m003_serving_sequence")
# The types whose names differ between the two databases.
TYPES = {
    "sqlite": {"row_id": "INTEGER", "float": "FLOAT"},
    "postgresql": {"row_id": "BIGSERIAL", "float": "DOUBLE PRECISION"},
}
TABLES = (
    "CREATE TABLE migrations (name VARCHAR(255) PRIMARY KEY)",
    "CREATE TABLE questions (id VARCHAR NOT NULL PRIMARY KEY, content_hash VARCHAR NOT NULL, "
    "messages JSON NOT NULL, chat_template_kwargs JSON NOT NULL, tenant VARCHAR NOT NULL, "
    "adapter_version INTEGER NOT NULL, sampling JSON NOT NULL, captured_at {float} NOT NULL)",
    "CREATE INDEX questions_by_content ON questions (content_hash, captured_at)",
    "CREATE TABLE files (id VARCHAR NOT NULL PRIMARY KEY, filename VARCHAR NOT NULL, "
    "bytes BIGINT NOT NULL, sha256 VARCHAR NOT NULL, summary JSON NOT NULL, "
    "created_at {float} NOT NULL)",
    "CREATE TABLE labeled_examples (content_hash VARCHAR NOT NULL PRIMARY KEY, "
    "file_id VARCHAR NOT NULL, messages JSON NOT NULL, reference JSON NOT NULL, "
    "verifier VARCHAR NOT NULL, details JSON NOT NULL, split VARCHAR NOT NULL)",
    "CREATE TABLE jobs (id VARCHAR NOT NULL PRIMARY KEY, mode VARCHAR NOT NULL, "
    "status VARCHAR NOT NULL, settings JSON NOT NULL, progress JSON NOT NULL, "
    "result JSON NOT NULL, error VARCHAR, attempts INTEGER NOT NULL, created_at {float} NOT NULL, "
    "started_at {float}, finished_at {float}, serving_sequence BIGINT)",
    "CREATE TABLE iterations (number {row_id} PRIMARY KEY, job_id VARCHAR NOT NULL, "
    "position INTEGER NOT NULL, checkpoint VARCHAR NOT NULL, question_ids JSON NOT NULL, "
    "metrics JSON NOT NULL, epoch INTEGER NOT NULL, created_at {float} NOT NULL, "
    "parent VARCHAR NOT NULL, UNIQUE (job_id, position))",
    "CREATE TABLE learned_questions (iteration BIGINT NOT NULL, question_id VARCHAR NOT NULL, "
    "content_hash VARCHAR NOT NULL, tenant VARCHAR NOT NULL, "
    "PRIMARY KEY (iteration, question_id))",
    "CREATE TABLE adapters (version INTEGER NOT NULL PRIMARY KEY, status VARCHAR NOT NULL, "
    "parent INTEGER NOT NULL, job_id VARCHAR NOT NULL, checkpoint VARCHAR NOT NULL, "
    "sha256 VARCHAR NOT NULL, bytes BIGINT NOT NULL, report JSON NOT NULL, "
    "created_at {float} NOT NULL, lineage JSON NOT NULL)",
    "CREATE TABLE serving (id INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL, "
    "previous INTEGER NOT NULL, sequence INTEGER NOT NULL, reason VARCHAR NOT NULL, "
    "changed_at {float} NOT NULL)",
    "CREATE TABLE server_processes (id VARCHAR NOT NULL PRIMARY KEY, version INTEGER NOT NULL, "
    "sequence INTEGER NOT NULL, error VARCHAR, counters JSON NOT NULL, seen_at {float} NOT NULL)",
    "CREATE TABLE training (id INTEGER NOT NULL PRIMARY KEY, paused BOOLEAN NOT NULL, "
    "reason VARCHAR NOT NULL, changed_at {float} NOT NULL)",
    "CREATE TABLE events (number {row_id} PRIMARY KEY, job_id VARCHAR, level VARCHAR NOT NULL, "
    "type VARCHAR NOT NULL, message VARCHAR NOT NULL, data JSON NOT NULL, "
    "created_at {float} NOT NULL)",
    "CREATE TABLE keys (sha256 VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, "
    "scopes JSON NOT NULL, created_at {float} NOT NULL)",
    "CREATE TABLE leases (name VARCHAR NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, "
    "owner VARCHAR NOT NULL, expires_at {float} NOT NULL)",
    "INSERT INTO serving VALUES (1, 2, 1, 5, 'better', 9.0)",
    "INSERT INTO training VALUES (1, FALSE, '', 0.0)",
    *(f"INSERT INTO migrations VALUES ('{name}')" for name in VERSION_0_1),
)


def create(engine: Engine) -> None:
    """Create the ledger that version 0.1 has written."""
    types = TYPES[engine.dialect.name]
    with engine.begin() as connection:
        for statement in TABLES:
            connection.execute(text(statement.format(**types)))
        for name, rows in ROWS.items():
            for row in rows:
                _insert(connection, name, row)


def _insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    values = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
    json_columns = [k for k, v in row.items() if isinstance(v, dict | list)]
    names = ", ".join(values)
    parameters = ", ".join(f"CAST(:{k} AS JSON)" if k in json_columns else f":{k}" for k in values)
    if connection.dialect.name == "sqlite":  # it has no type JSON to cast to
        parameters = ", ".join(f":{k}" for k in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({parameters})"), values)


def _question(
    id: str, text: str, tenant: str, sampling: list[Any] | dict[str, Any]
) -> dict[str, Any]:
    hashed = old_hash(user(text))
    question = {"id": id, "content_hash": hashed, "tenant": tenant, "captured_at": 1.0}
    return question | {
        "messages": user(text),
        "chat_template_kwargs": {},
        "adapter_version": 1,
        "sampling": sampling,
    }


def _labeled(text: str, split: str) -> dict[str, Any]:
    return {
        "content_hash": old_hash(user(text)),
        "file_id": "file",
        "messages": user(text),
        "reference": ["1"],
        "verifier": "exact",
        "details": {},
        "split": split,
    }


def _iteration(
    number: int, checkpoint: str, parent: str, ids: list[str], **metrics: int
) -> dict[str, Any]:
    return {
        "number": number,
        "job_id": "round",
        "position": number,
        "checkpoint": checkpoint,
        "parent": parent,
        "question_ids": ids,
        "metrics": {"e_steps": 1, **metrics},
        "epoch": 1,
        "created_at": 1.0,
    }


def _adapter(version: int, checkpoint: str, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": version,
        "status": "retired",
        "parent": version - 1,
        "job_id": "round",
        "checkpoint": checkpoint,
        "sha256": "",
        "bytes": 1,
        "report": report,
        "lineage": {},
        "created_at": 1.0,
    }


def _job(id: str, mode: str, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id,
        "mode": mode,
        "status": "succeeded",
        "settings": {"max_steps": 2},
        "progress": {},
        "result": result,
        "attempts": 1,
        "created_at": 1.0,
    }


LEARNED = (
    *(("q1", "3 × 7", "ann"), ("q2", "3 × 7", "bob")),
    # The rows of these questions are pruned; a row of the same text is there for the first.
    *(("pruned", "3 × 7", "ann"), ("alone", "Is x² > 32?", "ann"), ("unknown", "", "")),
)
ROWS: dict[str, list[dict[str, Any]]] = {
    "questions": [
        _question("q1", "3 × 7", "ann", {"temperature": 0.5, "top_p": 1, "top_k": -1, "n": 2}),
        _question("q2", "3 × 7", "bob", {"max_tokens": 16, "max_completion_tokens": 8}),
        _question("q3", "three", "bob", {"temperature": "hot", "top_k": 1e9, "max_tokens": 2**40}),
        _question("q4", "four", "bob", ["temperature"]),
        _question("q5", "five", "bob", {}),
    ],
    # As version 0.1 has split them: one in five, and so few that half would be held out today.
    "labeled_examples": [
        *(
            _labeled(f"{number} + {number}", "held_out" if number % 5 == 0 else "train")
            for number in range(9)
        )
    ],
    "iterations": [
        _iteration(1, "a-1", "", ["q1", "unknown", "q1"], m_steps=1),
        _iteration(2, "a-2", "a-1", ["q3"], m_steps=0),
        _iteration(3, "warm-up", "a-2", []),
    ],
    "learned_questions": [
        {
            "iteration": 1,
            "question_id": question_id,
            "content_hash": old_hash(user(text)) if text else "",
            "tenant": tenant,
        }
        for question_id, text, tenant in LEARNED
    ],
    "adapters": [
        _adapter(1, "a-1", {"gate": "passed", "swept": "beyond 20 versions"}),
        _adapter(2, "a-2", {"forced": "by hand"}),
        _adapter(3, "", {}),
    ],
    "jobs": [
        _job("round", "round", {"checkpoint": "a-2", "sequence": 5, "critic_auroc": 0.75}),
        _job("recalibration", "recalibrate", {"checkpoint": "c", "critic_auroc": 0.5}),
        _job("check", "check", {"version": 2, "below": True}),
        _job("passed", "check", {"version": 2, "below": False}),
        _job("queued", "round", {}),
        _job("unknown", "round", {"critic_auroc": None, "sequence": None}),
    ],
    "keys": [
        {"sha256": name * 16, "name": name, "scopes": scopes, "created_at": 1.0}
        for name, scopes in (
            *(("none", []), ("trai", ["train"])),
            *(("prom", ["promote"]), ("both", ["train", "promote"])),
        )
    ],
    "server_processes": [
        {
            "id": "p",
            "version": 1,
            "sequence": 5,
            "counters": {"captured": 3, "held": ["tempo-v1"]},
            "seen_at": 1.0,
        },
        {"id": "q", "version": 1, "sequence": 5, "counters": {}, "seen_at": 1.0},
    ],
}


def columns(engine: Engine) -> dict[str, set[str]]:
    """Return the names of each table's columns."""
    tables = inspect(engine).get_table_names()
    return {t: {c["name"] for c in inspect(engine).get_columns(t)} for t in tables}


def facts(engine: Engine) -> dict[str, Any]:
    """Return what the migrated rows say; after a migration it is FACTS."""
    learned = LearnedQuestion.question_id, LearnedQuestion.loose_hash, LearnedQuestion.tenant
    with Session(engine) as s:
        digest = ledger.labeled.held_out_digest(s)
        return {
            "parents": dict(s.execute(select(Iteration.checkpoint, Iteration.parent)).all()),
            "refined": dict(s.execute(select(Iteration.checkpoint, Iteration.refined)).all()),
            "learned": {tuple(row) for row in s.execute(select(*learned))},
            "learned from": {
                question: ledger.learned.versions_from(s, question)
                for question in ("q2", "q3", "What is 3 * 7", "3*7", "Is x² > 32?", "is x² > 32")
            },
            "lineage": list(s.scalars(select(Adapter.lineage))),
            "swept": dict(s.execute(select(Adapter.version, Adapter.swept)).all()),
            "forced": dict(s.execute(select(Adapter.version, Adapter.forced)).all()),
            "jobs": {job.id: astuple(job.end)[1:] for job in s.scalars(select(Job))},
            "sequences": set(s.scalars(select(Job.serving_sequence))),
            "held": dict(s.execute(select(ServerProcess.id, ServerProcess.held)).all()),
            "keys": {key.name: set(key.scopes) for key in ledger.keys.find(s)},
            "ends of keys": {(key.expires_at, key.rotated_to) for key in ledger.keys.find(s)},
            "serving": ledger.versions.serving(s).version,
            "sampling": {q.id: _sampling(q) for q in s.scalars(select(Question))},
            "draws": set(s.scalars(select(Question.draws))),
            "held out": {
                (example.content_hash, example.loose_hash)
                for example in ledger.labeled.examples(s, "held_out")
            },
            "content hashes": {row.id: row.content_hash for row in s.scalars(select(Question))},
            "labeled": ledger.labeled.count(s),
            "template arguments": list(s.scalars(select(LabeledExample.chat_template_kwargs))),
            "gate tests": [
                ledger.gate_tests.count(s, digest),
                ledger.gate_tests.rounds_since(s, digest),
            ],
            "next questions": {question.id for question in ledger.pool.next_questions(s, 9)},
            "users' sampling": ledger.pool.users_decoding(s, Decoding(0.6, 0.95, 20)),
        }


def _sampling(question: Question) -> tuple[float | None, ...]:
    return question.temperature, question.top_p, question.top_k, question.max_tokens


FACTS = {
    "parents": {"a-1": "", "a-2": "a-1", "warm-up": "a-2"},
    "refined": {"a-1": True, "a-2": False, "warm-up": False},
    "learned": {
        ("q1", loose_hash(user("3 × 7")), "ann"),
        ("q2", loose_hash(user("3 × 7")), "bob"),
        ("pruned", loose_hash(user("3 × 7")), "ann"),
        ("alone", old_hash(user("Is x² > 32?")), "ann"),
        ("unknown", "", ""),
    },
    "learned from": {
        **{"q2": [1, 2], "q3": [], "What is 3 * 7": [], "3*7": [1, 2]},
        **{"Is x² > 32?": [1, 2], "is x² > 32": [1, 2]},
    },
    "lineage": [{}, {}, {}],
    "swept": {1: True, 2: False, 3: False},
    "forced": {1: False, 2: True, 3: False},
    "jobs": {
        "round": ("a-2", 5, 0.75, None, None),
        "recalibration": ("c", None, None, None, None),
        "check": (None, None, None, 2, True),
        "passed": (None, None, None, 2, False),
        "queued": (None, None, None, None, None),
        "unknown": (None, None, None, None, None),
    },
    "sequences": {None},
    "held": {"p": ["tempo-v1"], "q": []},
    "keys": {
        "none": {"read"},
        "trai": {"read", "labels:read", "labels:write", "train", "questions"},
        "prom": {"read", "promote", "keys"},
        "both": {
            *("read", "labels:read", "labels:write", "train", "promote", "questions", "keys"),
        },
    },
    "ends of keys": {(None, None)},
    "serving": 2,
    "sampling": {
        "q1": (0.5, 1.0, -1, None),
        "q2": (None, None, None, 8),
        "q3": (None,) * 4,
        "q4": (None,) * 4,
        "q5": (None,) * 4,
    },
    "draws": {0},
    "held out": {(content_hash(user(text)), loose_hash(user(text))) for text in ("0 + 0", "5 + 5")},
    "content hashes": {
        question: content_hash(user(text))
        for question, text in (
            *(("q1", "3 × 7"), ("q2", "3 × 7"), ("q3", "three"), ("q4", "four"), ("q5", "five")),
        )
    },
    "labeled": {"train": 7, "held_out": 2},
    "template arguments": [{}] * 9,
    "gate tests": [0, 0],
    "next questions": {"q1", "q3", "q4", "q5"},
    "users' sampling": Decoding(0.6, 0.95, 20),
}
