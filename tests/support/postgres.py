"""A PostgreSQL of the tests' own; they carry the mark `needs("postgresql")`."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from ports import free_port
from services import postgresql
from waiting import eventually

BINARIES = postgresql() or Path("no PostgreSQL is installed")
NOBODY = 65534
STOP_SECONDS = 60.0


class Postgres:
    """A PostgreSQL as its image sets it up: one user, one database, the password in a file."""

    def __init__(self, *, password: str) -> None:
        self.port = free_port()
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="tempo-postgres-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self.user = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}

    def url(self, database: str = "tempo") -> str:
        return f"postgresql+psycopg://tempo:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster, start it, and create the database `tempo`."""
        self._initialise()
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(BINARIES / "postgres", "-D", self.directory / "data"),
                    *("-p", str(self.port), "-k", self.directory, "-c", "fsync=off"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self.user,
            )
        eventually(self.answers, seconds=30)
        self.create("tempo")

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self.user:
            for path in (self.directory, password_file):
                shutil.chown(path, NOBODY, NOBODY)
        initdb = [BINARIES / "initdb", "--pgdata", self.directory / "data", "--username=tempo"]
        subprocess.run(
            [*initdb, f"--pwfile={password_file}", "--auth=scram-sha-256", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self.user,
        )

    def answers(self) -> bool:
        command = [BINARIES / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def create(self, database: str) -> str:
        """Create a database and return its URL."""
        self.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def execute(self, statements: str, *, database: str = "postgres") -> None:
        """Run SQL statements, each in a transaction of its own."""
        url = self.url(database).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statements)

    def stop(self) -> None:
        """Stop the server and delete its files."""
        if self.process is not None:
            # The STOPSIGNAL of the image: do not wait for clients.
            self.process.send_signal(signal.SIGINT)
            self.process.wait(STOP_SECONDS)
        shutil.rmtree(self.directory)


@contextmanager
def postgres_server(*, password: str) -> Iterator[Postgres]:
    """Run a PostgreSQL until the block ends."""
    server = Postgres(password=password)
    try:
        server.start()
        yield server
    finally:
        server.stop()
