"""Migrations: of a new ledger, of that of version 0.1, and of an older one."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import captured, user
from old_ledgers import FACTS, VERSION_0_1, columns, create, facts
from sqlalchemy import Engine, bindparam, inspect, text
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.errors import SettingsError
from tempo_storage.ledger import migrations
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS, migrate
from tempo_storage.ledger.models import Question
from tempo_storage.question_hash import old_hash

NAMES = [migration.__name__ for migration in MIGRATIONS]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(f"sqlite:///{tmp_path / 'old.db'}")
    yield made
    made.dispose()


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    assert migrate(engine) == NAMES
    assert migrate(engine) == []


def test_an_old_ledger_gets_the_migrations_that_it_lacks(engine: Engine) -> None:
    create(engine)
    assert migrate(engine) == NAMES[1:]
    assert facts(engine) == FACTS


def test_an_old_ledger_has_the_columns_of_a_new_one(engine: Engine, tmp_path: Path) -> None:
    create(engine)
    migrate(engine)
    new = connect(f"sqlite:///{tmp_path / 'new.db'}")
    migrate(new)
    assert columns(engine) == columns(new)
    assert indexes(engine) >= {"jobs_by_age", "ix_audit_action"} <= indexes(new)
    new.dispose()


def indexes(engine: Engine) -> set[str]:
    """Return the names of the indexes of two tables that grow without end."""
    tables = ("jobs", "audit")
    return {str(index["name"]) for t in tables for index in inspect(engine).get_indexes(t)}


def test_the_gates_tests_of_an_old_ledger_count_for_the_same_held_out_questions(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(engine)
    with monkeypatch.context() as context:
        context.setattr(migrations, "MIGRATIONS", MIGRATIONS[:3])
        migrate(engine)
    with engine.begin() as connection:
        held_out = "SELECT content_hash FROM labeled_examples WHERE split = 'held_out'"
        hashes = sorted(connection.scalars(text(held_out)))
        old = hashlib.sha256(json.dumps([[h, ["1"]] for h in hashes]).encode()).hexdigest()
        insertion = "INSERT INTO gate_tests VALUES (:job, 1, :held_out, FALSE, TRUE, 1.0)"
        for job, digest in (("a", old), ("b", old), ("c", "another set")):
            connection.execute(text(insertion), {"job": job, "held_out": digest})
    migrate(engine)
    with Session(engine) as s:
        assert ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 2
        assert ledger.gate_tests.count(s, "another set") == 1


def test_a_question_without_text_keeps_its_old_key_as_both(engine: Engine) -> None:
    create(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE questions SET messages = '[]' WHERE id = 'q3'"))
    migrate(engine)
    with Session(engine) as s:
        question = s.get_one(Question, "q3")
        assert question.content_hash == question.loose_hash == old_hash(user("three"))


def test_an_old_ledger_takes_new_questions(engine: Engine) -> None:
    create(engine)
    migrate(engine)
    with Session(engine) as s, s.begin():
        assert ledger.pool.add(s, [captured("q9", "9+9", adapter_version=3)]) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_ledger_older_than_version_0_1_is_refused_and_stays_as_it_is(
    count: int, engine: Engine
) -> None:
    create(engine)
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM migrations WHERE name NOT IN :names").bindparams(
                bindparam("names", VERSION_0_1[:count], expanding=True)
            )
        )
    before = columns(engine)
    with pytest.raises(SettingsError, match=r"m001_initial.* only; start version 0\.1"):
        migrate(engine)
    assert columns(engine) == before
