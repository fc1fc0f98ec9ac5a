"""Migrations: of a new ledger, and of the ledgers of every earlier release."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import captured
from old_ledgers import FACTS, RELEASES, columns, create, facts
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS, migrate

NAMES = [migration.__name__ for migration in MIGRATIONS]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(f"sqlite:///{tmp_path / 'old.db'}")
    yield made
    made.dispose()


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    assert migrate(engine) == NAMES
    assert migrate(engine) == []


@pytest.mark.parametrize("release", RELEASES)
def test_an_old_ledger_gets_the_migrations_that_it_lacks(release: str, engine: Engine) -> None:
    create(engine, release)
    assert migrate(engine) == NAMES[NAMES.index(release) + 1 :]
    assert facts(engine) == FACTS


@pytest.mark.parametrize("release", RELEASES)
def test_an_old_ledger_has_the_columns_of_a_new_one(
    release: str, engine: Engine, tmp_path: Path
) -> None:
    create(engine, release)
    migrate(engine)
    new = connect(f"sqlite:///{tmp_path / 'new.db'}")
    migrate(new)
    assert columns(engine) == columns(new)
    new.dispose()


def test_an_old_ledger_takes_new_questions(engine: Engine) -> None:
    create(engine, "m001_initial")
    migrate(engine)
    with Session(engine) as s, s.begin():
        assert ledger.pool.add(s, [captured("q9", "9+9", adapter_version=3)]) == 1
