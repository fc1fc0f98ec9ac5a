"""Changes of the schema. Never edit one that has been released.

python -m tempo_storage.ledger.migrations        # before the processes of a new release start

A migration knows a table by the names of its columns only. The classes in models.py describe
today's tables, and an old ledger has other columns.

The oldest ledgers that this code brings up to date are those of version 0.1, whose last migration
was m003_serving_sequence.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tempo_storage.decoding import sampling_arguments
from tempo_storage.errors import SettingsError, TempoError
from tempo_storage.ledger import labeled
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.models import Base, RowId, Serving, Training
from tempo_storage.question_hash import content_hash, loose_hash, pool_hash
from tempo_storage.settings import StorageSettings, checked

Migration = Callable[[sa.Connection], None]


def m001_initial(connection: sa.Connection) -> None:
    """Create today's tables, and the rows of the two tables that hold exactly one."""
    Base.metadata.create_all(connection)
    row = {"id": 1, "changed_at": time.time()}
    pointer = {"version": 0, "previous": 0, "sequence": 0, "reason": "start"}
    connection.execute(sa.insert(Serving).values(row | pointer))
    connection.execute(sa.insert(Training).values(row | {"paused": False, "reason": ""}))


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
    m_steps = sa.column("metrics", sa.JSON)["m_steps"].as_integer()  # NULL for a warm-up
    _update(connection, "iterations", refined=sa.func.coalesce(m_steps, 0) > 0)
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


def m005_judging(connection: sa.Connection) -> None:
    """Add the columns and the table by which gate and sentinel judge as users sample."""
    _execute(
        connection,
        "ALTER TABLE questions ADD COLUMN temperature DOUBLE PRECISION",
        "ALTER TABLE questions ADD COLUMN top_p DOUBLE PRECISION",
        "ALTER TABLE questions ADD COLUMN top_k INTEGER",
        "ALTER TABLE questions ADD COLUMN max_tokens INTEGER",
        "ALTER TABLE questions ADD COLUMN draws INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE labeled_examples ADD COLUMN chat_template_kwargs JSON NOT NULL DEFAULT '{}'",
    )
    sa.Table(
        "gate_tests",
        sa.MetaData(),
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("held_out", sa.String, nullable=False),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    ).create(connection)
    _copy_sampling(connection)
    _execute(connection, "ALTER TABLE questions DROP COLUMN sampling")


def m006_two_keys(connection: sa.Connection) -> None:
    """Give each question a strict key and a loose key in place of the one key of version 0.1.

    A row without text keeps its old key as both, because nobody can compute new ones. So does a
    learned question whose own row is gone. The stored splits stay. The gate's tests stay those of
    their set of held-out questions, unless that is larger than the set that the gate asks.
    """
    _execute(
        connection,
        "ALTER TABLE questions ADD COLUMN loose_hash VARCHAR NOT NULL DEFAULT ''",
        "ALTER TABLE labeled_examples ADD COLUMN loose_hash VARCHAR NOT NULL DEFAULT ''",
        "ALTER TABLE learned_questions RENAME COLUMN content_hash TO loose_hash",
        "CREATE INDEX ix_questions_loose_hash ON questions (loose_hash)",
        "CREATE INDEX ix_labeled_examples_loose_hash ON labeled_examples (loose_hash)",
        "UPDATE questions SET loose_hash = content_hash",
    )
    old_digest = _held_out_digest(connection)
    _set_hash(connection, "questions", "loose_hash", loose_hash)
    _set_hash(connection, "labeled_examples", "loose_hash", loose_hash)
    _execute(
        connection,
        "UPDATE learned_questions SET loose_hash = coalesce("
        "(SELECT loose_hash FROM questions WHERE id = learned_questions.question_id), "
        "(SELECT min(questions.loose_hash) FROM questions "
        "WHERE content_hash = learned_questions.loose_hash), loose_hash)",
    )
    _set_hash(connection, "questions", "content_hash", content_hash)
    _set_hash(connection, "labeled_examples", "content_hash", content_hash)
    gate_tests = sa.table("gate_tests", sa.column("held_out"))
    same_set = sa.update(gate_tests).where(gate_tests.c.held_out == old_digest)
    connection.execute(same_set.values(held_out=_held_out_digest(connection)))


def m007_deleted_files(connection: sa.Connection) -> None:
    """Add the time of a file's deletion, and the table of the questions that each file labels."""
    _execute(
        connection,
        "ALTER TABLE files ADD COLUMN deleted_at DOUBLE PRECISION",
        "CREATE TABLE file_examples (file_id VARCHAR NOT NULL, content_hash VARCHAR NOT NULL, "
        "split VARCHAR NOT NULL, PRIMARY KEY (file_id, content_hash))",
        "CREATE INDEX ix_file_examples_content_hash ON file_examples (content_hash)",
        "INSERT INTO file_examples (file_id, content_hash, split) "
        "SELECT file_id, content_hash, split FROM labeled_examples",
    )


def m008_dead_letters(connection: sa.Connection) -> None:
    """Add the table of the captured questions that could not be stored."""
    _execute(
        connection,
        "CREATE TABLE dead_letters (entry_id VARCHAR NOT NULL PRIMARY KEY, "
        "reason VARCHAR NOT NULL, entry VARCHAR NOT NULL, created_at DOUBLE PRECISION NOT NULL)",
    )


# The scopes of version 0.1, and the scopes of today that allow a part of what each of them allowed.
# A key without a scope read figures, labels and questions; now it reads figures.
NEW_SCOPES = {
    "train": ("labels:read", "labels:write", "train", "questions"),
    "promote": ("promote", "keys"),
}


def m009_keys_and_audit(connection: sa.Connection) -> None:
    """Let keys expire and rotate, map their scopes to those of today, and add the audit."""
    _execute(
        connection,
        "ALTER TABLE keys ADD COLUMN expires_at DOUBLE PRECISION",
        "ALTER TABLE keys ADD COLUMN last_used_at DOUBLE PRECISION",
        "ALTER TABLE keys ADD COLUMN rotated_to VARCHAR",
        "CREATE INDEX jobs_by_age ON jobs (created_at, id)",
    )
    sa.Table(
        "audit",
        sa.MetaData(),
        sa.Column("number", RowId, primary_key=True, autoincrement=True),
        *(
            sa.Column(name, sa.String, nullable=False, index=name == "action")
            for name in ("actor", "address", "action", "subject")
        ),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("before", "after")),
        sa.Column("created_at", sa.Double, nullable=False),
    ).create(connection)
    keys = sa.table("keys", sa.column("sha256"), sa.column("scopes", sa.JSON))
    for sha256, scopes in connection.execute(sa.select(keys)).all():
        new = ["read", *(n for old, names in NEW_SCOPES.items() if old in scopes for n in names)]
        connection.execute(sa.update(keys).where(keys.c.sha256 == sha256).values(scopes=new))


def m010_privacy(connection: sa.Connection) -> None:
    """Add the tables of published files and of erasures.

    A migration does not know where the adapters are. So the rows of the versions that may serve
    begin empty, and the server that starts first fills them (`ledger/published.py`).
    """
    _execute(
        connection,
        "CREATE TABLE published_adapters (name VARCHAR NOT NULL PRIMARY KEY, files JSON NOT NULL)",
        "CREATE TABLE erasures (tenant VARCHAR NOT NULL PRIMARY KEY, "
        "erased_at DOUBLE PRECISION NOT NULL)",
        "INSERT INTO published_adapters (name, files) SELECT 'tempo-v' || CAST(version AS VARCHAR),"
        " '{}' FROM adapters WHERE NOT swept AND status <> 'corrupt'",
    )


def m011_tenants(connection: sa.Connection) -> None:
    """Add the table of tenants, and to each question its key in the pool and its first tenant.

    The tenants of the ledger are not new, so none of them is in quarantine.
    """
    _execute(
        connection,
        "ALTER TABLE questions ADD COLUMN pool_hash VARCHAR NOT NULL DEFAULT ''",
        "ALTER TABLE questions ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",
        "UPDATE questions SET pool_hash = content_hash",
    )
    _set_hash(connection, "questions", "pool_hash", pool_hash)
    _execute(
        connection,
        "CREATE INDEX questions_by_pool_hash ON questions (pool_hash, captured_at)",
        "UPDATE questions SET owner = (SELECT same.tenant FROM questions AS same "
        "WHERE same.pool_hash = questions.pool_hash ORDER BY same.captured_at LIMIT 1)",
        "CREATE INDEX questions_by_owner ON questions (owner, pool_hash, captured_at)",
        "CREATE TABLE tenants (id VARCHAR NOT NULL PRIMARY KEY, questions INTEGER NOT NULL, "
        "last_asked_at DOUBLE PRECISION NOT NULL, quarantined BOOLEAN NOT NULL)",
        "CREATE INDEX ix_tenants_last_asked_at ON tenants (last_asked_at)",
        "INSERT INTO tenants (id, questions, last_asked_at, quarantined) "
        "SELECT tenant, count(*), max(captured_at), FALSE FROM questions GROUP BY tenant",
    )


def _copy_sampling(connection: sa.Connection) -> None:
    """Copy the arguments of each request from its JSON object into the columns."""
    names = ("temperature", "top_p", "top_k", "max_tokens")
    table = sa.table("questions", sa.column("id"), *map(sa.column, (*names, "sampling")))
    update = sa.update(table).where(table.c.id == sa.bindparam("question"))
    update = update.values({name: sa.bindparam(name) for name in names})
    # As text: a value that is not JSON must not stop the migration.
    rows = connection.execute(sa.select(table.c.id, sa.cast(table.c.sampling, sa.String))).all()
    values = [{"question": id} | sampling_arguments(_object(text)) for id, text in rows]
    if values:
        connection.execute(update, values)


def _set_hash(
    connection: sa.Connection, name: str, column: str, hash_of: Callable[[Any], str]
) -> None:
    """Compute a hash of each row of a table that has the text of its question."""
    key = "id" if name == "questions" else "content_hash"
    table = sa.table(name, *map(sa.column, {key, column, "messages"}))
    rows = connection.execute(sa.select(table.c[key], sa.cast(table.c.messages, sa.String))).all()
    texts = [(row, json.loads(text)) for row, text in rows]
    values = [{"row": row, "hash": hash_of(messages)} for row, messages in texts if messages]
    if values:
        update = sa.update(table).where(table.c[key] == sa.bindparam("row"))
        connection.execute(update.values({column: sa.bindparam("hash")}), values)


def _held_out_digest(connection: sa.Connection) -> str:
    """Return the digest of all held-out examples, as the gate's tests name their set."""
    names = "content_hash", "split"
    table = sa.table("labeled_examples", *map(sa.column, names), sa.column("reference", sa.JSON))
    rows: Any = connection.execute(sa.select(table).where(table.c.split == "held_out"))
    return labeled.digest(rows)


def _object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text; {} where there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _execute(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(sa.text(statement))


def _update(connection: sa.Connection, name: str, **values: Any) -> None:
    """Set columns of all rows of a table."""
    connection.execute(sa.update(sa.table(name, *map(sa.column, values))).values(values))


MIGRATIONS: list[Migration] = [
    m001_initial,
    m004_decisions_in_columns,
    m005_judging,
    m006_two_keys,
    m007_deleted_files,
    m008_dead_letters,
    m009_keys_and_audit,
    m010_privacy,
    m011_tenants,
]


def migrate(engine: sa.Engine) -> list[str]:
    """Bring the ledger up to date, and return the names of the migrations that it lacked.

    Processes that start together may all call it. A new ledger gets today's tables from the first
    migration, so the later ones are only recorded. Raises SettingsError for a ledger that is older
    than version 0.1.
    """
    with engine.begin() as connection:
        _lock(connection)
        _execute(
            connection,
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR(255) PRIMARY KEY)",
        )
        applied = set(connection.execute(sa.text("SELECT name FROM migrations")).scalars())
        if applied and applied.isdisjoint({"m003_serving_sequence", "m004_decisions_in_columns"}):
            raise SettingsError(
                f"the ledger is older than version 0.1: it has {', '.join(sorted(applied))} only; "
                "start version 0.1 on it once"
            )
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
