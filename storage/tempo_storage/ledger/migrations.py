"""Schema changes, applied in order and recorded by name; never edit one that has been released.

python -m tempo_storage.ledger.migrations        # before the processes of a new release start
"""

import sys
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_storage.errors import TempoError
from tempo_storage.ledger import lineage
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.models import Base, Iteration, Question, Serving, Training
from tempo_storage.settings import StorageSettings, checked

Migration = Callable[[Connection], None]


def m001_initial(connection: Connection) -> None:
    """Create every table, and the rows of the two that hold exactly one."""
    Base.metadata.create_all(connection)
    row = {"id": 1, "changed_at": time.time()}
    pointer = {"version": 0, "previous": 0, "sequence": 0, "reason": "start"}
    connection.execute(insert(Serving).values(row | pointer))
    connection.execute(insert(Training).values(row | {"paused": False, "reason": ""}))


def m002_lineage(connection: Connection) -> None:
    """Keep what an iteration went on from and what its M-step learned from, also of those before.

    An old iteration is taken to have gone on from the one before it: a version is then rather said
    to have learned from a question than not.
    """
    Base.metadata.create_all(connection)  # a new ledger has all of it, an old one lacks the table
    _add_column(connection, "iterations", "parent", "VARCHAR NOT NULL DEFAULT ''")
    _add_column(connection, "adapters", "lineage", "JSON NOT NULL DEFAULT '{}'")
    before = (
        "SELECT e.checkpoint FROM iterations e WHERE e.number < iterations.number "
        "ORDER BY e.number DESC LIMIT 1"
    )
    connection.execute(text(f"UPDATE iterations SET parent = COALESCE(({before}), '')"))
    columns = Iteration.number, Iteration.question_ids, Iteration.metrics
    with Session(connection) as s, s.begin():
        for number, question_ids, metrics in s.execute(select(*columns)).all():
            drawn = question_ids if metrics.get("m_steps") else []
            lineage.record(s, number, [s.get(Question, id) or _pruned(id) for id in drawn])


def _pruned(question_id: str) -> Question:
    return Question(id=question_id, content_hash="", tenant="")


def m003_serving_sequence(connection: Connection) -> None:
    """Note with each job what served when it began."""
    _add_column(connection, "jobs", "serving_sequence", "BIGINT")


def _add_column(connection: Connection, table: str, name: str, kind: str) -> None:
    if name not in {column["name"] for column in inspect(connection).get_columns(table)}:
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {name} {kind}"))


MIGRATIONS: list[Migration] = [m001_initial, m002_lineage, m003_serving_sequence]


def migrate(engine: Engine) -> list[str]:
    """Apply what is missing and return its names; safe when several processes start at once."""
    applied_now = []
    with engine.begin() as connection:
        _lock(connection)
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS migrations (name VARCHAR(255) PRIMARY KEY)")
        )
        applied = set(connection.execute(text("SELECT name FROM migrations")).scalars())
        for migration in MIGRATIONS:
            name = migration.__name__
            if name not in applied:
                migration(connection)
                insertion = text("INSERT INTO migrations (name) VALUES (:name)")
                connection.execute(insertion, {"name": name})
                applied_now.append(name)
    return applied_now


def _lock(connection: Connection) -> None:
    # SQLite transactions are IMMEDIATE (engine.connect), which is lock enough.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(2604192950)"))


def main() -> None:
    """Bring the ledger of the settings up to date and print what was applied."""
    try:
        engine = connect(checked(StorageSettings).resolved_database_url)
        applied = migrate(engine)
    except (TempoError, SQLAlchemyError) as error:
        sys.exit(f"migrations: {error}")
    where = engine.url.render_as_string(hide_password=True)
    print(f"{where}: applied {', '.join(applied) or 'nothing, it is up to date'}")


if __name__ == "__main__":
    main()
