"""The topology of docker/compose.yaml as plain processes, on a PostgreSQL and a Valkey by URL.

Every service runs by its own command, environment, dependencies and health check. Only what an
engine would do is done here: names become ports of this machine, mounts become directories, and an
image's entry point becomes the binary that it starts.
"""

import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
import yaml
from small import SMALL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.errors import ConflictError
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS, migrate
from tempo_storage.ledger.models import Adapter
from tempo_storage.ledger.sessions import open_database
from tempo_storage.valkey.server import _binary

POSTGRES = Path("/usr/lib/postgresql/15/bin")
COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
PROFILE = "cpu"
APPLIED = [migration.__name__ for migration in MIGRATIONS]
NOBODY = 65534
START_SECONDS = 120.0
JOB_SECONDS = 120.0
GRACE_SECONDS = 60.0

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(
        not (POSTGRES / "initdb").exists(), reason="no PostgreSQL; apt-get install postgresql-15"
    ),
]

# What an operator would put into compose.override.yaml for a model this small.
SERVER_FLAGS = (
    *("--served-model-name", "tiny", "--max-model-len", "128", "--max-num-seqs", "64"),
    *("--gpu-memory-utilization", "0.3"),
)
ONE_WARM_UP = SMALL | {"TEMPO_WARM_UP_STEPS": "1"}


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
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self.user:
            for path in (self.directory, password_file):
                shutil.chown(path, NOBODY, NOBODY)
        initdb = [POSTGRES / "initdb", "--pgdata", self.directory / "data", "--username=tempo"]
        subprocess.run(
            [*initdb, f"--pwfile={password_file}", "--auth=scram-sha-256", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self.user,
        )
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(POSTGRES / "postgres", "-D", self.directory / "data"),
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

    def answers(self) -> bool:
        command = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def create(self, database: str) -> str:
        self.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def execute(self, statement: str) -> None:
        url = self.url("postgres").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(
                signal.SIGINT
            )  # the image's STOPSIGNAL: do not wait for clients
            self.process.wait(GRACE_SECONDS)
        shutil.rmtree(self.directory)


class Twin:
    """Does what `docker compose --profile cpu up` does, without containers."""

    def __init__(self, root: Path, postgres: Postgres, model: Path) -> None:
        self.root = root
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
        self.variables = {"MODEL": str(model), "KV_CACHE_GIB": "1"}
        self.port, self.valkey_port = free_port(), free_port()
        self.places = {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=8000": f"--port={self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "server:8000": f"127.0.0.1:{self.port}",
            "valkey:6379": f"127.0.0.1:{self.valkey_port}",
            "@postgres/": f"@127.0.0.1:{postgres.port}/",
            "/run/secrets": str(root / "secrets"),
            "/var/lib/tempo": str(root / "state"),
            "/var/cache/tempo": str(root / "cache"),
            "/data": str(root / "valkey"),
        }
        self.binaries = {
            "valkey-server": [_binary(), "--port", str(self.valkey_port)],
            "valkey-cli": [
                *(sys.executable, "-c"),
                f"import redis; redis.Redis(port={self.valkey_port}).ping()",
            ],
            "pg_isready": [str(POSTGRES / "pg_isready"), f"--port={postgres.port}"],
            "python3": [sys.executable],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # As docker/README.md says; the URL names the service.
        (root / "secrets").mkdir()
        url = f"postgresql+psycopg://tempo:{postgres.password}@postgres/tempo"
        (root / "secrets" / "tempo_database_url").write_text(self.here(url))

    def here(self, text: object) -> str:
        """Return what a text of the compose file means on this machine."""
        filled = re.sub(r"\$\{(\w+):-(.*?)\}", lambda m: self.variables.get(m[1], m[2]), str(text))
        pattern = "|".join(re.escape(there) for there in self.places)
        return re.sub(pattern, lambda m: self.places[m[0]], filled)

    def command(self, words: list[str]) -> list[str]:
        return [*self.binaries.get(words[0], [words[0]]), *map(self.here, words[1:])]

    def mounts(self, service: dict[str, Any]) -> list[str]:
        """Return what goes before a command so that it finds its volumes, read-only or not."""
        steps = []
        for volume in reversed(service.get("volumes", [])):
            _, target, *mode = volume.split(":")
            place = self.here(target)
            Path(place).mkdir(parents=True, exist_ok=True)
            steps.append(f"mount --rbind {place} {place}")
            if mode == ["ro"]:
                steps.append(f"mount -o remount,ro,bind {place}")
        trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        script = " && ".join([*steps, 'exec "$@"'])
        return ["unshare", "--mount", "sh", "-c", script, "sh"] if trial.returncode == 0 else []

    def environment(self, name: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TEMPO_", "VLLM_"))}
        own = self.services[name].get("environment", {})
        extra = ONE_WARM_UP if name == "worker" else {}
        for_tests = {
            "TEMPO_DIE_WITH_PARENT": "1",
            "TORCH_COMPILE_DISABLE": "1",  # compiling one log-prob kernel takes half a minute
            "HF_HUB_OFFLINE": "1",
        }
        return kept | {k: self.here(v) for k, v in own.items()} | extra | for_tests

    def up(self, name: str) -> None:
        """Start a service after those that it depends on are as it wants them."""
        service = self.services[name]
        for other, wanted in service.get("depends_on", {}).items():
            if PROFILE not in self.services[other]["profiles"]:
                assert wanted["required"] is False
                continue
            self.up(other)
            self.wait(other, wanted["condition"])
        if name in self.processes or name == "postgres":  # which runs already
            return
        flags = SERVER_FLAGS if name == "server" else ()
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.mounts(service), *self.command(service["command"]), *flags],
                env=self.environment(name),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            assert self.processes[name].wait(START_SECONDS) == 0, self.tail(name)
            return
        assert condition == "service_healthy"
        try:
            eventually(lambda: self.is_healthy(name), seconds=START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{name} is not healthy:\n{self.tail(name)}") from error

    def is_healthy(self, name: str) -> bool:
        process = self.processes.get(name)
        assert process is None or process.poll() is None, self.tail(name)
        test = self.command(self.services[name]["healthcheck"]["test"][1:])
        return subprocess.run(test, capture_output=True, timeout=30, check=False).returncode == 0

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def tail(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")[-6000:]

    def down(self) -> dict[str, int]:
        """Stop what runs in the order in which Compose does, and return the exit codes."""
        codes = {}
        for name, process in reversed(self.processes.items()):
            process.terminate()
            codes[name] = process.wait(GRACE_SECONDS)
        return codes


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    running = Postgres(password=secrets.token_hex(8))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def sessions(postgres: Postgres) -> Iterator[sessionmaker[Session]]:
    """An empty ledger of its own on PostgreSQL."""
    sessions = open_database(postgres.create(f"ledger_{secrets.token_hex(4)}"))
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.mark.vllm
def test_the_compose_topology_learns_from_questions_and_serves_what_it_learned(
    postgres: Postgres, tiny_base: Path, tmp_path: Path
) -> None:
    twin = Twin(tmp_path, postgres, tiny_base)
    try:
        twin.up("worker")
        twin.wait("worker", "service_healthy")
        assert twin.log("migrate").read_text().endswith(f"/tempo: applied {', '.join(APPLIED)}\n")
        learn_and_answer(twin)
    except BaseException:
        print(twin.tail("server"), twin.tail("worker"), sep="\n")
        raise
    finally:
        codes = twin.down()
    assert codes == {"migrate": 0, "valkey": 0, "server": 0, "worker": 0}
    # Everything was in PostgreSQL and in the Valkey of the URL.
    assert not (tmp_path / "state" / "tempo.db").exists()
    assert not (tmp_path / "state" / "valkey.sock").exists()
    engine = connect(postgres.url())
    with Session(engine) as s:
        assert ledger.versions.serving(s).version == 1
        assert ledger.jobs.find(s)[0].status == "succeeded"
    engine.dispose()


def learn_and_answer(twin: Twin) -> None:
    url = f"http://127.0.0.1:{twin.port}"
    key = (twin.root / "state" / "admin.key").read_text().strip()
    split = countdown.split(7, labeled=120, unlabeled=8, unseen=0)
    with (
        Tempo(base_url=url, api_key=key) as tempo,
        openai.OpenAI(base_url=f"{url}/v1", api_key="user", max_retries=0) as client,
    ):
        # A number near 40 is a reference that a model which hardly calculates meets now and then.
        tempo.files.create(
            {
                "question": puzzle.question,
                "answer": "40",
                "verifier": "numeric",
                "metadata": {"tolerance": 0.5},
            }
            for puzzle in split.labeled
        )
        for puzzle in split.unlabeled:
            ask(client, puzzle.question)
        eventually(lambda: tempo.status().questions.captured == len(split.unlabeled), seconds=30)
        job = tempo.jobs.create("round", max_steps=1)
        deadline = time.monotonic() + JOB_SECONDS
        while not job.is_finished:
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
            job = tempo.jobs.retrieve(job.id)
        assert job.status == "succeeded", job.error
        assert (job.result["decision"], job.result["adapter"]) == ("promoted", "tempo-v1")
        answer = ask(client, split.unlabeled[0].question)
        assert answer.headers["x-tempo-adapter"] == "tempo-v1"
        assert answer.parse().model == "tempo-v1"


def ask(client: openai.OpenAI, question: str) -> Any:
    return client.chat.completions.with_raw_response.create(
        model="tempo", messages=[{"role": "user", "content": question}], max_tokens=16
    )


# The ledger, where PostgreSQL is not SQLite ------------------------------------------------------


def test_processes_that_start_together_migrate_once(postgres: Postgres) -> None:
    engine = connect(postgres.create("together"))
    applied = at_once(lambda _: migrate(engine), times=4)
    assert sorted(applied) == [[], [], [], APPLIED]
    engine.dispose()


def test_of_workers_that_start_together_one_gets_the_lease(sessions: sessionmaker[Session]) -> None:
    def acquire(number: int) -> int | None:
        try:
            with sessions.begin() as s:
                return ledger.leases.acquire(s, ledger.leases.TRAINER, f"worker-{number}", 30.0)
        except SQLAlchemyError:  # both found no lease; the worker tries again a second later
            return None

    epochs = at_once(acquire, times=8)
    assert [epoch for epoch in epochs if epoch] == [1]


def test_of_two_promotions_over_the_same_version_one_is_refused(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])

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
            ledger.jobs.finish(s, "job", "succeeded", result={"decision": "promoted"})

    worker = threading.Thread(target=succeed)
    with sessions.begin() as s:
        ledger.jobs.finish(s, "job", "cancelled")
        s.flush()
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()  # it waits for us
    worker.join(10)
    with sessions() as s:
        assert ledger.jobs.get(s, "job").status == "cancelled"


def test_a_figure_that_is_no_number_is_stored_as_none(sessions: sessionmaker[Session]) -> None:
    figures = {"auroc": math.nan, "gate": {"high": math.inf, "k": 4}, "rows": [0.5, math.nan]}
    with sessions.begin() as s:
        ledger.events.add(s, "critic.recalibrated", "x", data=figures)
    with sessions() as s:
        (event,) = ledger.events.find(s)
        assert event.data == {"auroc": None, "gate": {"high": None, "k": 4}, "rows": [0.5, None]}


def test_a_connection_that_postgres_has_closed_is_made_anew(
    postgres: Postgres, sessions: sessionmaker[Session]
) -> None:
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'ledger%'"
    )
    with sessions() as s:
        assert ledger.training.get(s).paused is False


def at_once(call: Callable[[int], Any], *, times: int) -> list[Any]:
    """Call in as many threads at the same moment and return what came back."""
    barrier, results = threading.Barrier(times), []

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


def candidate(version: int) -> Adapter:
    return Adapter(
        version=version,
        status="candidate",
        parent=0,
        job_id="job",
        checkpoint="",
        sha256="",
        bytes=3 << 30,
        report={},
        created_at=0.0,
    )


def eventually(claim: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
