"""Changes of the schema. Never edit one that has been released.

python -m tempo_storage.ledger.migrations        # before the processes of a new release start

A migration knows a table by the names of its columns only. The classes in models.py describe
today's tables, and an old ledger has other columns.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tempo_storage.errors import TempoError
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.models import Base, Serving, Training
from tempo_storage.settings import StorageSettings, checked

Migration = Callable[[sa.Connection], None]
M_STEPS = sa.column("metrics", sa.JSON)["m_steps"].as_integer()
"""The number of M-steps of an iteration, in its JSON; NULL for an iteration before them."""


def m001_initial(connection: sa.Connection) -> None:
    """Create today's tables, and the rows of the two tables that hold exactly one."""
    Base.metadata.create_all(connection)
    row = {"id": 1, "changed_at": time.time()}
    pointer = {"version": 0, "previous": 0, "sequence": 0, "reason": "start"}
    connection.execute(sa.insert(Serving).values(row | pointer))
    connection.execute(sa.insert(Training).values(row | {"paused": False, "reason": ""}))


def m002_lineage(connection: sa.Connection) -> None:
    """Store the parent of each iteration, and the questions that its M-step learned from.

    Nothing tells the parent of an old iteration, so this takes the iteration before it. The lineage
    of an old version may have a question too many, but never one too few.
    """
    _execute(
        connection,
        "CREATE TABLE learned_questions (iteration BIGINT NOT NULL, question_id VARCHAR NOT NULL, "
        "content_hash VARCHAR NOT NULL, tenant VARCHAR NOT NULL, "
        "PRIMARY KEY (iteration, question_id))",
        "CREATE INDEX ix_learned_questions_question_id ON learned_questions (question_id)",
        "CREATE INDEX ix_learned_questions_content_hash ON learned_questions (content_hash)",
        "CREATE INDEX ix_learned_questions_tenant ON learned_questions (tenant)",
        "ALTER TABLE iterations ADD COLUMN parent VARCHAR NOT NULL DEFAULT ''",
        "UPDATE iterations SET parent = COALESCE((SELECT e.checkpoint FROM iterations e "
        "WHERE e.number < iterations.number ORDER BY e.number DESC LIMIT 1), '')",
        "ALTER TABLE adapters ADD COLUMN lineage JSON NOT NULL DEFAULT '{}'",
    )
    # The questions that an M-step drew; some were pruned since, so only their ids are known.
    insertion = sa.text(
        "INSERT INTO learned_questions "
        "SELECT CAST(:iteration AS BIGINT), d.id, COALESCE(content_hash, ''), COALESCE(tenant, '') "
        "FROM (SELECT CAST(:id AS VARCHAR) AS id) d LEFT JOIN questions ON questions.id = d.id"
    )
    iterations = sa.select(sa.column("number"), sa.column("question_ids", sa.JSON))
    refined = iterations.select_from(sa.table("iterations")).where(M_STEPS > 0)
    for number, question_ids in connection.execute(refined).all():
        for question_id in dict.fromkeys(question_ids):
            connection.execute(insertion, {"iteration": number, "id": question_id})
    # The same questions of other tenants.
    _execute(
        connection,
        "INSERT INTO learned_questions "
        "SELECT l.iteration, MIN(q.id), q.content_hash, q.tenant "
        "FROM learned_questions l JOIN questions q ON q.content_hash = l.content_hash "
        "WHERE l.content_hash <> '' GROUP BY l.iteration, q.content_hash, q.tenant "
        "ON CONFLICT DO NOTHING",
    )


def m003_serving_sequence(connection: sa.Connection) -> None:
    """Add the sequence that the serving pointer had when a job began."""
    _execute(connection, "ALTER TABLE jobs ADD COLUMN serving_sequence BIGINT")


def m004_decisions_in_columns(connection: sa.Connection) -> None:
    """Copy the facts that decide something from JSON into columns; drop a column nobody reads."""
    _execute(
        connection,
        "ALTER TABLE adapters ADD COLUMN swept BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE adapters ADD COLUMN forced BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE iterations ADD COLUMN refined BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE server_processes ADD COLUMN held JSON NOT NULL DEFAULT '[]'",
        "ALTER TABLE jobs ADD COLUMN end_checkpoint VARCHAR",
        "ALTER TABLE jobs ADD COLUMN end_sequence BIGINT",
        "ALTER TABLE jobs ADD COLUMN end_auroc DOUBLE PRECISION",
        "ALTER TABLE jobs ADD COLUMN checked_version INTEGER",
        "ALTER TABLE jobs ADD COLUMN below_base BOOLEAN",
        "ALTER TABLE questions DROP COLUMN adapter_version",
    )
    report = sa.column("report", sa.JSON)
    swept = report["swept"].as_string().is_not(None)
    forced = report["forced"].as_string().is_not(None)
    _update(connection, "adapters", swept=swept, forced=forced)
    _update(connection, "iterations", refined=sa.func.coalesce(M_STEPS, 0) > 0)
    held: Any = sa.column("counters", sa.JSON)["held"]
    held = sa.case((held.as_string().is_(None), sa.literal([], sa.JSON)), else_=held)
    _update(connection, "server_processes", held=held)
    result = sa.column("result", sa.JSON)
    _update(
        connection,
        "jobs",
        end_checkpoint=result["checkpoint"].as_string(),
        end_sequence=result["sequence"].as_integer(),
        end_auroc=result["critic_auroc"].as_float(),
        checked_version=result["version"].as_integer(),
        below_base=result["below"].as_boolean(),
    )
    # Only a round's AUROC says whether the critic has to be recalibrated.
    _execute(connection, "UPDATE jobs SET end_auroc = NULL WHERE mode <> 'round'")


def _execute(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(sa.text(statement))


def _update(connection: sa.Connection, name: str, **values: Any) -> None:
    """Set columns of all rows of a table."""
    connection.execute(sa.update(sa.table(name, *map(sa.column, values))).values(values))


MIGRATIONS: list[Migration] = [
    m001_initial,
    m002_lineage,
    m003_serving_sequence,
    m004_decisions_in_columns,
]


def migrate(engine: sa.Engine) -> list[str]:
    """Bring the ledger up to date, and return the names of the migrations that it lacked.

    Processes that start together may all call it. A new ledger gets today's tables from the first
    migration, so the later ones are only recorded.
    """
    with engine.begin() as connection:
        _lock(connection)
        _execute(
            connection,
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR(255) PRIMARY KEY)",
        )
        applied = set(connection.execute(sa.text("SELECT name FROM migrations")).scalars())
        missing = [m for m in MIGRATIONS if m.__name__ not in applied]
        for migration in missing if applied else [m001_initial]:
            migration(connection)
        for migration in missing:
            insertion = sa.text("INSERT INTO migrations (name) VALUES (:name)")
            connection.execute(insertion, {"name": migration.__name__})
    return [migration.__name__ for migration in missing]


def _lock(connection: sa.Connection) -> None:
    """Let one process migrate at a time; on SQLite each transaction that writes holds a lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(2604192950)"))


def main() -> None:
    """Bring the ledger of the settings up to date and print what was applied."""
    try:
        engine = connect(checked(StorageSettings).resolved_database_url)
        applied = migrate(engine)
    except (TempoError, SQLAlchemyError) as error:
        sys.exit(f"migrations: {error}")
    url = engine.url.render_as_string(hide_password=True)
    print(f"{url}: applied {', '.join(applied) or 'nothing, it is up to date'}")


if __name__ == "__main__":
    main()
