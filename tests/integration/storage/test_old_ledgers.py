"""The ledger of version 0.1 on PostgreSQL, whose types are stricter than SQLite's."""

import secrets
from collections.abc import Iterator

import pytest
from old_ledgers import FACTS, columns, create, facts
from postgres import Postgres, postgres_server

from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import migrate

pytestmark = [pytest.mark.service, pytest.mark.needs("postgresql")]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server(password=secrets.token_hex(8)) as running:
        yield running


def test_an_old_ledger_is_brought_up_to_date(postgres: Postgres) -> None:
    old = connect(postgres.create("old"))
    new = connect(postgres.create("new"))
    create(old)
    migrate(old)
    migrate(new)
    assert facts(old) == FACTS
    assert columns(old) == columns(new)
    old.dispose()
    new.dispose()
