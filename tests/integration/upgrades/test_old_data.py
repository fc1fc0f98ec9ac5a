"""The ledger of commit 389b244 opens with this code, and each row reads as before."""

import hashlib
import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ledgers import opened
from old_data import LAST_STEP, QUEUED
from postgres import BINARIES, Postgres, postgres_server
from sqlalchemy import select
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.decoding import Decoding
from tempo_storage.errors import ConflictError, GateRefusedError
from tempo_storage.labeled.split import missing_labels
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS, migrate
from tempo_storage.ledger.models import Iteration, Question
from tempo_storage.question_hash import old_hash

NEW_MIGRATIONS = [migration.__name__ for migration in MIGRATIONS][1:]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server(password="new") as running:
        yield running


ON_POSTGRESQL = pytest.param(
    "postgresql", marks=[pytest.mark.service, pytest.mark.needs("postgresql")]
)


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def url(request: pytest.FixtureRequest, old: Path) -> str:
    """The old ledger's URL: the SQLite of the data directory, or the same rows on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{old / 'data' / 'tempo.db'}"
    url = request.getfixturevalue("postgres").create(f"old_{secrets.token_hex(4)}")
    command = [BINARIES / "psql", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    address = url.replace("+psycopg", "")
    subprocess.run([*command, f"--file={old / 'postgresql.sql'}", address], check=True)
    return url


@pytest.fixture
def s(url: str) -> Iterator[Session]:
    """A session with the ledger after the migrations."""
    with opened(url) as sessions, sessions() as session:
        yield session


@dataclass(frozen=True, slots=True)
class Version:
    """The facts that decide about a version."""

    status: str
    parent: int
    checkpoint: str
    swept: bool = False
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """The facts that decide about a job."""

    mode: str
    status: str
    sequence: int | None = None
    end_checkpoint: str | None = None
    end_sequence: int | None = None
    checked_version: int | None = None
    below_base: bool | None = None


VERSIONS = {
    1: Version("retired", 0, "ftjob-0c2de570412e95f6a640555c-1", swept=True),
    2: Version("retired", 0, "ftjob-b05a8cb53835811aa9b5d04d-1"),
    3: Version("rejected", 2, "ftjob-7ce52f83f90cb11fa8aed642-1", forced=True),
    4: Version("serving", 0, LAST_STEP),
}
WARM_UP = "ftjob-f08725f8303ca7c912b12037-0"
JOBS = [
    Job("round", "failed", 0),
    Job("recalibrate", "cancelled"),
    Job("recalibrate", "succeeded", 0, WARM_UP, 0),
    Job("round", "succeeded", 0, VERSIONS[1].checkpoint, 1),
    Job("round", "succeeded", 2, VERSIONS[2].checkpoint, 3),
    Job("round", "succeeded", 3, VERSIONS[2].checkpoint, 3),
    Job("check", "succeeded", 4, checked_version=3, below_base=True),
    Job("round", "succeeded", 6, VERSIONS[4].checkpoint, 7),
    Job("check", "succeeded", 7, checked_version=4, below_base=False),
    Job("round", "queued"),
]


def test_only_the_new_migrations_are_applied_and_only_once(url: str) -> None:
    engine = connect(url)
    assert migrate(engine) == NEW_MIGRATIONS
    assert migrate(engine) == []
    engine.dispose()


def test_each_version_has_its_status_and_the_columns_say_what_the_report_said(s: Session) -> None:
    rows = {row.version: row for row in ledger.versions.adapters(s)}
    assert {
        version: Version(row.status, row.parent, row.checkpoint, row.swept, row.forced)
        for version, row in rows.items()
    } == VERSIONS
    assert rows[3].report["forced"] == "a test of the sentinel"
    assert rows[1].report["swept"].startswith("beyond 3 versions")
    assert rows[4].report["probe"]["verdict"] == "passed"
    assert rows[4].lineage["checkpoint"] == LAST_STEP


def test_the_pointer_is_where_it_was_and_training_is_not_paused(s: Session) -> None:
    pointer = ledger.versions.serving(s)
    assert (pointer.version, pointer.previous, pointer.sequence) == (4, 0, 7)
    assert pointer.reason.endswith("every bound holds")
    assert ledger.training.get(s).paused is False


def test_a_swept_version_is_refused_and_a_rejected_one_needs_force(s: Session) -> None:
    with pytest.raises(ConflictError, match="tempo-v1 was swept"):
        ledger.versions.promote(s, 1, force=True)
    with pytest.raises(GateRefusedError, match="force=true"):
        ledger.versions.promote(s, 3)


def test_each_job_has_its_status_and_the_columns_say_what_the_result_said(s: Session) -> None:
    rows = ledger.jobs.find(s)[::-1]
    assert [
        Job(
            row.mode,
            row.status,
            row.serving_sequence,
            row.end.checkpoint,
            row.end.sequence,
            row.end.checked_version,
            row.end.below_base,
        )
        for row in rows
    ] == JOBS
    assert "no unlabeled question was captured" in (rows[0].error or "")
    assert rows[7].result["decision"] == "promoted"
    assert rows[7].end.auroc == rows[7].result["critic_auroc"] == pytest.approx(0.533, abs=0.001)


def test_each_iteration_says_whether_it_made_an_m_step(s: Session) -> None:
    rows = list(s.scalars(select(Iteration)))
    assert len(rows) == 10
    assert {row.refined for row in rows if row.position == 0} == {False}
    assert {row.refined for row in rows if row.position > 0} == {True}


def test_the_queued_job_is_still_runnable(s: Session) -> None:
    assert [job.id for job in ledger.jobs.runnable(s)] == [QUEUED]
    assert ledger.jobs.get(s, QUEUED).settings["max_steps"] == 1


def test_the_history_of_events_is_whole(s: Session) -> None:
    events = ledger.events.find(s, limit=1000)
    assert len(events) == 46
    assert Counter(event.type for event in events) >= Counter(
        {"adapter.promoted": 7, "gate.promoted": 3, "gate.rejected": 1, "sentinel.rolled_back": 1}
    )
    failed = [event for event in events if event.type == "job.failed"]
    assert [event.level for event in failed] == ["error"]


def test_questions_and_labeled_examples_are_where_they_were(s: Session) -> None:
    assert ledger.pool.count(s) == (12, 12)
    assert ledger.pool.size(s) == 12
    assert ledger.labeled.count(s) == {"train": 77, "held_out": 23}
    assert len(ledger.labeled.files(s)) == 1


def test_the_splits_are_those_by_which_the_gate_judged_before(s: Session) -> None:
    held_out = ledger.versions.adapter(s, 4).lineage["held out"]
    assert held_out["questions"] == 23
    # The lineage of an old version names the set by the keys of that time.
    examples = ledger.labeled.examples(s, "held_out")
    rows = sorted([old_hash(e.messages), e.reference] for e in examples)
    assert held_out["sha256"] == hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert missing_labels(**ledger.labeled.count(s)) == 9


def test_the_users_sampling_is_in_columns(s: Session) -> None:
    rows = {(q.temperature, q.top_p, q.top_k, q.max_tokens) for q in s.scalars(select(Question))}
    assert rows == {(None, None, None, 4)}
    decoding = ledger.pool.users_decoding(s, Decoding(0.6, 0.95, 20))
    assert decoding == Decoding(0.6, 0.95, 20, max_tokens=4)


def test_no_question_has_been_drawn_and_the_gate_has_made_no_test(s: Session) -> None:
    assert {question.draws for question in ledger.pool.next_questions(s, 100)} == {0}
    assert ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 0


def test_the_ledger_names_the_versions_that_learned_from_a_question(s: Session) -> None:
    assert len(ledger.learned.question_ids(s, LAST_STEP)) == 12
    assert ledger.learned.versions_from(s, "use 1 4 8 make 12 ?") == [1, 2, 3, 4]
    assert ledger.learned.versions_from(s, "use 2 5 9 make 14 ?") == [3, 4]


def test_new_rows_get_the_next_numbers(s: Session) -> None:
    ledger.events.add(s, "x", "new")
    s.flush()
    assert ledger.events.find(s, limit=1000)[-1].number == 47
    assert ledger.versions.next_version(s) == 5
