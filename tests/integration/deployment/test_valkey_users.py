"""The users of compose's Valkey: each role can do its work, and nothing else."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import yaml
from compose import COMPOSE, make_secrets
from ports import free_port
from waiting import eventually

from tempo_storage.valkey.doorbell import FUNCTION, RINGS, Listener, Refused, ring
from tempo_storage.valkey.server import _binary
from tempo_storage.valkey.streams import STREAM, QuestionStream, redis_client
from tempo_trainer.worker.rq_worker import LeaseWorker

pytestmark = pytest.mark.service
Client = Callable[[str], redis.Redis]
Forbidden = Callable[[redis.Redis], Any]

NOBODY: dict[str, Forbidden] = {
    "FLUSHALL": lambda c: c.flushall(),
    "configure it": lambda c: c.config_set("dir", "/tmp"),
    "run a script": lambda c: c.eval("return 1", 0),
    "list keys": lambda c: c.keys("*"),
    "read another key": lambda c: c.get("secret"),
    "write another key": lambda c: c.hset("other", "a", "b"),
    "send commands": lambda c: c.publish("rq:pubsub:worker", "{}"),
    "make users": lambda c: c.acl_setuser("me", enabled=True, nopass=True),
    "write its files": lambda c: c.save(),
    "copy itself elsewhere": lambda c: c.execute_command("REPLICAOF", "127.0.0.1", "1"),
    "watch others": lambda c: c.execute_command("CLIENT", "LIST"),
    "watch another key": lambda c: c.execute_command("WATCH", "other"),
    "delete another key": lambda c: c.unlink("other"),
    "end it": lambda c: c.execute_command("SHUTDOWN", "NOSAVE"),
}
SERVER: dict[str, Forbidden] = {
    "take questions": lambda c: c.xreadgroup("ledger", "server", {STREAM: ">"}),
    "acknowledge questions": lambda c: c.xack(STREAM, "ledger", "1-0"),
    "take rings": lambda c: c.blpop([RINGS], 0.01),
    "delete rings": lambda c: c.unlink(RINGS),
    "read jobs": lambda c: c.hget("rq:job:x", "data"),
}
WORKER: dict[str, Forbidden] = {
    "ring": lambda c: c.rpush(RINGS, FUNCTION),
    "write RQ's records elsewhere": lambda c: c.xadd("results", {"a": "b"}),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a function that connects as a role, to a Valkey that compose's own command started."""
    root = tmp_path_factory.mktemp("valkey")
    secrets = root / "secrets"
    make_secrets(secrets)
    port = free_port()
    words = yaml.safe_load(COMPOSE.read_text())["services"]["valkey"]["command"]
    places = {"/data": str(root), "/run/secrets/valkey_users": str(secrets / "valkey_users")}
    command = [_binary(), *(places.get(word, word) for word in words[1:])]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    clients: list[redis.Redis] = []

    def connect(role: str) -> redis.Redis:
        file = secrets / f"{role}_redis_url"
        url = file.read_text() if file.exists() else role
        clients.append(redis_client(url.replace("valkey:6379", f"127.0.0.1:{port}")))
        return clients[-1]

    def answers() -> bool:
        try:
            return bool(connect("redis://health:none@valkey:6379").ping())
        except redis.ConnectionError:
            return False

    try:
        eventually(answers, seconds=20)
        yield connect
    finally:
        for each in clients:
            each.close()
        process.terminate()
        process.wait(20)


def test_the_server_sends_questions_and_rings_that_the_worker_takes(client: Client) -> None:
    listener = Listener(client("worker"))
    assert listener.wait(0.01) == Refused()
    stream = QuestionStream(client("server"))
    stream.append([{"id": "a"}])
    assert stream.backlog() == 1
    assert ring(client("server"), "ftjob-1")
    assert listener.wait(60) == Refused()
    reader = QuestionStream(client("worker"))
    ((entry_id, question),) = reader.read()
    assert question == {"id": "a"}
    reader.acknowledge([entry_id])
    assert (stream.backlog(), stream.has_stalled(), reader.has_stalled()) == (0, False, False)
    assert client("server").config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    listener.close()


@pytest.mark.parametrize("role", ["server", "worker"])
def test_each_role_erases_questions_and_keeps_the_others(role: str, client: Client) -> None:
    QuestionStream(client("server")).append([{"id": "erased"}, {"id": "kept"}])
    stream = QuestionStream(client(role))
    assert stream.delete(lambda question: question["id"] == "erased") == 1
    stream.rewrite_log()
    reader = QuestionStream(client("worker"))
    ((entry_id, question),) = reader.read()
    assert question == {"id": "kept"}
    reader.acknowledge([entry_id])


def test_rq_s_worker_may_keep_its_records(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    waiting = ["job-1", "job-2"]
    runs: list[str] = []

    def run(job_id: str) -> None:
        runs.append(job_id)
        if job_id == "job-1":
            raise ValueError(job_id)

    def next_job() -> str | None:
        return waiting.pop(0) if waiting else None

    LeaseWorker(client("worker"), next_job, run).work_until_idle()
    assert runs == ["job-1", "job-2"]
    assert "job-1" in caplog.text
    assert "permission" not in caplog.text


def forbidden(act: str) -> Any:
    """Return an act with its row in the table of attacks."""
    attack = f"the user of a role, or of the health check, tries to {act}"
    return pytest.param(
        act, marks=pytest.mark.attack("Valkey", attack, promise="refused: no permission")
    )


@pytest.mark.parametrize("role", ["server", "worker", "health"])
@pytest.mark.parametrize("act", [*map(forbidden, NOBODY)])
def test_no_role_can_do_what_nobody_needs(
    role: str, act: str, client: Client, seen: Callable[[object], None]
) -> None:
    user = "redis://health:none@valkey:6379" if role == "health" else role
    with pytest.raises(redis.exceptions.NoPermissionError) as caught:
        NOBODY[act](client(user))
    seen(f"{role}: {type(caught.value).__name__}")


@pytest.mark.parametrize("act", SERVER)
@pytest.mark.attack(
    "Valkey",
    "the server's user takes questions, rings and jobs",
    promise="refused: no permission",
)
def test_the_server_takes_nothing_from_the_worker(
    act: str, client: Client, seen: Callable[[object], None]
) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError) as caught:
        SERVER[act](client("server"))
    seen(f"{act}: {type(caught.value).__name__}")


@pytest.mark.parametrize("act", WORKER)
@pytest.mark.attack(
    "Valkey",
    "the worker's user rings or writes elsewhere",
    promise="refused: no permission",
)
def test_the_worker_can_neither_ring_nor_write_elsewhere(
    act: str, client: Client, seen: Callable[[object], None]
) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError) as caught:
        WORKER[act](client("worker"))
    seen(f"{act}: {type(caught.value).__name__}")


@pytest.mark.parametrize("user", ["", ":guess@", "server:guess@", "default:@"])
@pytest.mark.attack(
    "Valkey",
    "no password, a guessed one, no user",
    promise="refused before any command",
)
def test_nobody_enters_without_a_password(
    user: str, client: Client, seen: Callable[[object], None]
) -> None:
    with pytest.raises(redis.exceptions.AuthenticationError) as caught:
        client(f"redis://{user}valkey:6379").ping()
    seen(f"{user or 'nobody'} {type(caught.value).__name__}")


def test_the_health_check_s_user_can_only_ping(client: Client) -> None:
    health = client("redis://health:none@valkey:6379")
    assert health.ping()
    for act in (*SERVER.values(), *WORKER.values()):
        with pytest.raises(redis.exceptions.NoPermissionError):
            act(health)
