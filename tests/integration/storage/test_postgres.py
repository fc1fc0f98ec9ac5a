"""The ledger on PostgreSQL, where it behaves otherwise than SQLite: locks, JSON, connections."""

import math
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from canaries import canary
from ledgers import candidate, captured, opened
from postgres import Postgres, postgres_server
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import ConflictError
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS, migrate
from tempo_storage.ledger.models import Key
from tempo_storage.ledger.scrub import scrub

pytestmark = [pytest.mark.service, pytest.mark.needs("postgresql")]

APPLIED = [migration.__name__ for migration in MIGRATIONS]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server(password=secrets.token_hex(8)) as running:
        yield running


@pytest.fixture
def sessions(postgres: Postgres) -> Iterator[sessionmaker[Session]]:
    """An empty ledger in a database of its own."""
    with opened(postgres.create(f"ledger_{secrets.token_hex(4)}")) as made:
        yield made


def at_once(call: Callable[[int], Any], *, times: int) -> list[Any]:
    """Call in several threads at the same moment and return the results."""
    barrier = threading.Barrier(times)
    results: list[Any] = []

    def run(number: int) -> None:
        barrier.wait()
        results.append(call(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == times
    return results


def test_processes_that_start_together_migrate_once(postgres: Postgres) -> None:
    engine = connect(postgres.create("together"))
    applied = at_once(lambda _: migrate(engine), times=4)
    assert sorted(applied) == [[], [], [], APPLIED]
    engine.dispose()


def test_one_of_the_workers_that_start_together_gets_the_lease(
    sessions: sessionmaker[Session],
) -> None:
    def acquire(number: int) -> int | None:
        try:
            with sessions.begin() as s:
                return ledger.leases.acquire(s, f"worker-{number}", 30.0)
        except SQLAlchemyError:  # both found no lease; a worker tries again a second later
            return None

    epochs = at_once(acquire, times=8)
    assert [epoch for epoch in epochs if epoch] == [1]


def test_one_of_two_promotions_over_the_same_version_is_refused(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1, bytes=3 << 30), candidate(2, bytes=3 << 30)])

    def promote(number: int) -> int | None:
        try:
            with sessions.begin() as s:
                return ledger.versions.promote(s, number + 1, expected_current=0).sequence
        except ConflictError:
            return None

    assert sorted(at_once(promote, times=2), key=bool) == [None, 1]


def test_a_job_that_is_cancelled_while_it_ends_stays_cancelled(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ledger.jobs.create(s, "job", "round", {}).status = "running"

    def succeed() -> None:
        with sessions.begin() as s:
            ledger.jobs.finish(s, "job", "succeeded")

    worker = threading.Thread(target=succeed)
    with sessions.begin() as s:
        ledger.jobs.finish(s, "job", "cancelled")
        s.flush()
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()  # it waits for the row's lock, which this transaction holds
    worker.join(10)
    with sessions() as s:
        assert ledger.jobs.get(s, "job").status == "cancelled"


def test_a_figure_that_is_not_a_number_is_stored_as_null(sessions: sessionmaker[Session]) -> None:
    figures = {"auroc": math.nan, "gate": {"high": math.inf, "k": 4}, "rows": [0.5, math.nan]}
    with sessions.begin() as s:
        ledger.events.add(s, "critic.recalibrated", "x", data=figures)
    with sessions() as s:
        (event,) = ledger.events.find(s)
        assert event.data == {"auroc": None, "gate": {"high": None, "k": 4}, "rows": [0.5, None]}


def test_an_erased_question_leaves_no_bytes_in_the_tables_files(
    postgres: Postgres, sessions: sessionmaker[Session]
) -> None:
    paths = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relname = 'questions'"

    def holds_it() -> bool:
        engine = sessions.kw["bind"]
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
            (path,) = connection.scalars(text(paths))
        return canary("ann").encode() in (postgres.directory / "data" / path).read_bytes()

    with sessions.begin() as s:
        ledger.pool.add(s, [captured("q", canary("ann"), tenant="ann")])
    assert holds_it()
    with sessions.begin() as s:
        assert ledger.learned.erase(s, "ann") == (1, [])
    assert holds_it()
    assert scrub(sessions.kw["bind"]) == ""
    assert not holds_it()
    with sessions.begin() as s:  # the connection is back in a usable state
        ledger.pool.add(s, [captured("q", "1 + 1")])


def test_a_new_connection_replaces_one_that_postgres_has_closed(
    postgres: Postgres, sessions: sessionmaker[Session]
) -> None:
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'ledger%'"
    )
    with sessions() as s:
        assert ledger.training.get(s).paused is False


def test_pages_of_jobs_the_audit_and_the_uses_of_keys_are_as_on_sqlite(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        for n in range(6):
            ledger.jobs.queue(s, "round", {}, message="x").created_at = n // 2
        s.add(Key(sha256="a" * 64, name="a", scopes=["read"]))
        ledger.keys.record_uses(s, {"a" * 64: 7.0})
        ledger.keys.forget_expired(s, for_seconds=0)
        ledger.audit.record_settings(s, {"group_size": 8})
        ledger.audit.record_settings(s, {"group_size": 4})
    with sessions() as s:
        first = ledger.jobs.page(s, after=None, limit=3)
        rest = ledger.jobs.page(s, after=first[-1].id, limit=9)
        assert [job.created_at for job in (*first, *rest)] == [2, 2, 1, 1, 0, 0]
        assert len({job.id for job in (*first, *rest)}) == 6
        assert ledger.keys.find(s)[0].last_used_at == 7.0
        newest = ledger.audit.find(s, limit=1)[0]
        assert (newest.before, newest.after) == ({"group_size": 8}, {"group_size": 4})
        assert len(ledger.audit.find(s, before=newest.number)) == 7
