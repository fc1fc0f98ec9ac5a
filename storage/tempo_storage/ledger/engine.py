"""Connect to the ledger's database: SQLite with a durable write-ahead log, or PostgreSQL by URL.

No error of a statement shows its parameters, because they may hold a user's question.
"""

import json
import math
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url

BUSY_SECONDS = 5  # a writer waits so long for another writer, on SQLite
CONNECT_SECONDS = 5  # to PostgreSQL
# The option of a connection that only reads.
READS = {"tempo_reads": True}


def connect(url: str) -> Engine:
    """Return an engine for `url`; create the directory of an SQLite file that does not exist."""
    parsed = make_url(url)
    options: Any = {"json_serializer": _json, "hide_parameters": True}
    if parsed.get_backend_name() != "sqlite":
        timeout = {"connect_timeout": CONNECT_SECONDS}
        return create_engine(url, pool_pre_ping=True, connect_args=timeout, **options)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    timeout = {"timeout": BUSY_SECONDS}
    engine = create_engine(url, connect_args=timeout, **options)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver would guess when a transaction begins; `_begin` says it.
    connection.isolation_level = None
    # FULL: an acknowledged commit survives a power cut (4 ms instead of 14 µs).
    # secure_delete: a deleted question is overwritten in the file.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # A deferred transaction that starts to write can fail at once with "database is locked", so a
    # writer takes the lock when it begins. A transaction that only reads needs no lock: it sees the
    # ledger as it was when it began.
    reads = READS.items() <= connection.get_execution_options().items()
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _json(value: Any) -> str:
    return json.dumps(without_nan(value), allow_nan=False)


def without_nan(value: Any) -> Any:
    """Return a value with None for each NaN and infinity, which JSON and PostgreSQL lack."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
