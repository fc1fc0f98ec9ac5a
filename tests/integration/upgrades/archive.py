"""Make a data directory portable, without names of this machine, and dump it for PostgreSQL."""

import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis
from postgres import BINARIES, postgres_server
from sqlalchemy import MetaData, create_engine, text
from waiting import eventually


def make_portable(data: Path) -> None:
    """Drop logs, locks and sockets; replace the host's name; fold SQLite's log into its file."""
    for path in data.rglob("*"):
        if path.suffix in (".log", ".lock", ".sock"):
            path.unlink()
    connection = sqlite3.connect(data / "tempo.db")
    for table, column in text_columns(connection):
        for mark in "-:":  # in names of processes and of workers
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (socket.gethostname() + mark, "old-host" + mark),
            )
    connection.commit()
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("VACUUM")
    connection.close()
    assert_no_paths(data)


def text_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [
        (table, name)
        for (table,) in tables
        for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        if kind in ("VARCHAR", "JSON")
    ]


def compact_valkey(socket_path: Path) -> None:
    """Drop what RQ noted about workers that have ended, and rewrite Valkey's log of commands."""
    client = redis.Redis(unix_socket_path=str(socket_path))
    if keys := list(client.scan_iter("rq:worker*")):
        client.delete(*keys)
    client.bgrewriteaof()
    time.sleep(0.5)
    eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    client.close()


def dump_for_postgresql(data: Path, migrate: Callable[[dict[str, str]], object]) -> None:
    """Let `migrate` make the old tables on PostgreSQL, copy the rows, and dump both as SQL."""
    with postgres_server(password="old") as postgres:
        migrate({"TEMPO_DATABASE_URL": postgres.url()})
        copy_rows(f"sqlite:///{data / 'tempo.db'}", postgres.url())
        command = [BINARIES / "pg_dump", "--inserts", "--no-owner", "--file=postgresql.sql"]
        url = postgres.url().replace("+psycopg", "")
        subprocess.run([*command, url], check=True)
    dump = Path("postgresql.sql")
    lines = dump.read_text().splitlines(keepends=True)
    # Older psql does not know the commands restrict and unrestrict, which begin with a backslash.
    dump.write_text("".join(line for line in lines if not line.startswith("\\")))


def copy_rows(source: str, target: str) -> None:
    """Copy every row; the target has the same tables, and rows of its own in some of them."""
    old = create_engine(source)
    new = create_engine(target)
    tables = MetaData()
    tables.reflect(new)
    rows = MetaData()
    rows.reflect(old)
    with old.connect() as reading, new.begin() as writing:
        for name, table in tables.tables.items():
            writing.execute(table.delete())
            values = [dict(row._mapping) for row in reading.execute(rows.tables[name].select())]
            if values:
                writing.execute(table.insert(), values)
        for name in ("events", "iterations"):
            sequence = f"pg_get_serial_sequence('{name}', 'number')"
            last = f"(SELECT max(number) FROM {name})"
            writing.execute(text(f"SELECT setval({sequence}, {last})"))
    old.dispose()
    new.dispose()


def assert_no_paths(data: Path) -> None:
    """Fail where a file names this machine, or an absolute path."""
    pattern = rf"\b{re.escape(socket.gethostname())}[:-]\d|/(?:tmp|home|root|work)/"
    for path in data.rglob("*"):
        if path.is_file():
            names = re.findall(pattern.encode(), path.read_bytes())
            assert names == [], (path, names)
