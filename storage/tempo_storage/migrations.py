"""Schema changes, applied in order and recorded by name; never edit one that has been released.

python -m tempo_storage.migrations        # before the processes of a new release start
"""

import sys
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import SQLAlchemyError

from tempo_storage.errors import TempoError
from tempo_storage.models import Base, Serving, Training

Migration = Callable[[Connection], None]


def m001_initial(connection: Connection) -> None:
    """Create every table, and the rows of the two that hold exactly one."""
    Base.metadata.create_all(connection)
    row = {"id": 1, "changed_at": time.time()}
    pointer = {"version": 0, "previous": 0, "sequence": 0, "reason": "start"}
    connection.execute(insert(Serving).values(row | pointer))
    connection.execute(insert(Training).values(row | {"paused": False, "reason": ""}))


MIGRATIONS: list[Migration] = [m001_initial]


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
    # SQLite transactions are IMMEDIATE (database.connect), which is lock enough.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(2604192950)"))


def main() -> None:
    """Bring the ledger of the settings up to date and print what was applied."""
    from tempo_storage.database import connect  # which imports this module
    from tempo_storage.settings import StorageSettings, checked

    try:
        engine = connect(checked(StorageSettings).resolved_database_url)
        applied = migrate(engine)
    except (TempoError, SQLAlchemyError) as error:
        sys.exit(f"migrations: {error}")
    where = engine.url.render_as_string(hide_password=True)
    print(f"{where}: applied {', '.join(applied) or 'nothing, it is up to date'}")


if __name__ == "__main__":
    main()
