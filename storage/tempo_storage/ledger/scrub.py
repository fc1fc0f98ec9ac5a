"""Remove the traces that deleted rows leave in the files of the database.

On SQLite a deleted question is overwritten in the file, but the write-ahead log still has it, and a
file that was written before `secure_delete` was on has it, too. On PostgreSQL deleted rows stay in
the table's file until the table is written anew.
"""

import time

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from tempo_storage.failures import reason

TABLES = ("questions", "dead_letters")  # those that hold what users asked
CHECKPOINT_SECONDS = 5.0
POLL_SECONDS = 0.05


def scrub(engine: Engine) -> str:
    """Write the database anew without deleted rows; return why that failed, "" if it did not.

    Writers wait meanwhile.
    """
    try:
        return _scrub_sqlite(engine) if engine.dialect.name == "sqlite" else _scrub_tables(engine)
    except SQLAlchemyError as error:
        return reason(error)


def _scrub_sqlite(engine: Engine) -> str:
    # Through the driver: VACUUM needs a connection without a transaction.
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                return "a reader holds the write-ahead log"
            time.sleep(POLL_SECONDS)
    except engine.dialect.loaded_dbapi.Error as error:
        return str(error)
    finally:
        connection.close()
    return ""


def _scrub_tables(engine: Engine) -> str:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in TABLES:
            connection.execute(text(f"VACUUM FULL {table}"))
    return ""
