"""Serve a model and let it learn: Valkey, vLLM and the worker in one command.

    tempo serve MODEL [any flag of `vllm serve`]

MODEL is a directory or a hub id. TEMPO_ variables set the rest, above all TEMPO_DATA_DIR. Without
TEMPO_REDIS_URL a private Valkey runs in the data directory, and one `tempo serve` at a time. What
dies is started again; SIGTERM and Ctrl-C end everything within 30 s: the worker commits the
iteration at hand, then vLLM finishes its requests. vLLM gets half of the device's memory unless
--gpu-memory-utilization is given, so that the worker has room beside it (not tried on a GPU).
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import httpx
import redis
from sqlalchemy.exc import SQLAlchemyError

from tempo_server.commands.supervisor import Child, Supervisor, say
from tempo_server.commands.vllm_serve import api_key, value_of
from tempo_server.settings import ServerSettings
from tempo_storage.errors import TempoError
from tempo_storage.ledger.sessions import open_database
from tempo_storage.settings import checked
from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import redis_client

WORKER_STOP_SECONDS = 12.0
SERVER_STOP_SECONDS = 16.0  # 28 s in all: an orchestrator kills after 30
LEAST_FREE_BYTES = 1 << 30
LOCK = "serve.lock"
LAST_PORT = 65535
NEEDED = {
    "cpu] or vllm-tempo[gpu": ("vllm",),
    "server": ("redis", "rq", "safetensors", "python_multipart"),
    "trainer": ("torch", "transformers", "peft", "jaxtyping", "math_verify"),
}
UNSERVED = {
    "--config": "what a file says is not seen here; give its flags on the command line",
    **dict.fromkeys(
        ("--uds", "--ssl-certfile", "--ssl-keyfile", "--headless"),
        "the worker needs plain HTTP on --port; put TLS before it",
    ),
}


class ServeError(TempoError, RuntimeError):
    """Something that `tempo serve` needs is missing; nothing was started."""


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return 0, or 1 after a line that says what is wrong."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        settings = check(arguments)
        with alone(settings):
            check_stores(settings)  # after the lock: it may migrate the ledger
            _run(arguments, settings)
    except TempoError as error:
        print(f"tempo: {error}", file=sys.stderr)
        return 1
    return 0


def check(arguments: Sequence[str]) -> ServerSettings:
    """Return the settings; raise ServeError or SettingsError for what would stop a child."""
    settings = checked(ServerSettings)
    for extra, modules in NEEDED.items():
        for name in modules:
            if find_spec(name) is None:
                raise ServeError(f"{name} is missing; pip install 'vllm-tempo[{extra}]'")
    for flag, reason in UNSERVED.items():
        if value_of(flag, arguments) is not None:
            raise ServeError(f"{flag}: {reason}")
    check_model(arguments[0])
    check_port(value_of("--host", arguments) or "", port=_port(arguments))
    check_disk(settings.root)
    return settings


def check_model(model: str) -> None:
    """Refuse a flag, and a path that is not there; a hub id is vLLM's to find."""
    if model.startswith("-"):
        raise ServeError(f"{model} stands where the model belongs; tempo serve MODEL [flags]")
    looks_local = model.startswith(("/", "./", "../", "~")) or model.count("/") > 1
    if looks_local and "://" not in model and not Path(model).expanduser().exists():
        raise ServeError(f"no model at {model}; give a directory with config.json, or a hub id")


def check_port(host: str, *, port: int) -> None:
    """Refuse an address on which nothing can listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]
        raise ServeError(
            f"cannot listen on port {port} ({reason}); stop what does, or give another --port"
        ) from error


def check_disk(root: Path, *, least_free: int = LEAST_FREE_BYTES) -> None:
    """Refuse a data directory that cannot be written or has no room."""
    trial = root / ".writable"
    try:
        root.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"\0" * 4096)
        trial.unlink()
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise ServeError(
            f"cannot write to the data directory {root} ({error.strerror}); "
            "mend that, or set TEMPO_DATA_DIR"
        ) from error
    if free < least_free:
        raise ServeError(
            f"{free >> 20} MiB are free in the data directory {root}, {least_free >> 20} are "
            "needed; free some, or set TEMPO_DATA_DIR"
        )


@contextlib.contextmanager
def alone(settings: ServerSettings) -> Iterator[None]:
    """Refuse a data directory on which another `tempo serve` runs; keep it until the block ends.

    A second one would follow the same serving pointer, perhaps with another base model, and its
    worker would wait for ever. Replicas on purpose share a Valkey that TEMPO_REDIS_URL names, and
    are let through. The kernel releases the lock, also after kill -9.
    """
    if settings.redis_url:
        yield
        return
    with (settings.root / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ServeError(
                f"another `tempo serve` (pid {lock.read()}) runs on the data directory "
                f"{settings.root}; stop it, or set TEMPO_DATA_DIR to another directory"
            ) from error
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        yield


def check_stores(settings: ServerSettings) -> None:
    """Bring the ledger up to date, and see that Valkey answers where one is named."""
    try:
        open_database(settings.resolved_database_url).kw["bind"].dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise ServeError(
            f"the database cannot be used ({str(error).splitlines()[0]}); check "
            "TEMPO_DATABASE_URL, and pip install 'vllm-tempo[postgres]' for PostgreSQL"
        ) from error
    try:
        if settings.redis_url:
            redis_client(settings.redis_url).ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ServeError(f"Valkey cannot be used ({error}); check TEMPO_REDIS_URL") from error


def worker_environment(arguments: Sequence[str], *, url: str) -> dict[str, str]:
    """Return where the worker finds the server, and vLLM's own key where it has one."""
    key = api_key(arguments)
    return {"TEMPO_BASE_URL": url} | ({"TEMPO_VLLM_API_KEY": key} if key else {})


def _run(arguments: Sequence[str], settings: ServerSettings) -> None:
    url = f"http://{_reachable(value_of('--host', arguments))}:{_port(arguments)}"

    def tell() -> None:
        model = next(iter(settings.alias_names), "tempo-v0")  # TEMPO_ALIASES may be empty
        say("tempo", f"ready: {url}/v1, model {model!r}")
        where = f"TEMPO_DATA_DIR={settings.root} TEMPO_BASE_URL={url}"
        say("tempo", f"{where} tempo recalibrate FILE   # questions with answers")

    http = httpx.Client(base_url=url, timeout=1.0, trust_env=False)
    say("tempo", f"data in {settings.root}")
    redis_url = settings.redis_url or keep_running(settings.root)
    common = {"TEMPO_DIE_WITH_PARENT": "1", "TEMPO_REDIS_URL": redis_url}
    server = Child(
        "server",
        [sys.executable, "-m", "tempo_server.commands.vllm_serve", *arguments],
        environment=common,
        answers=lambda: _is_healthy(http),
        stop_seconds=SERVER_STOP_SECONDS,
    )
    worker = Child(
        "worker",
        [sys.executable, "-m", "tempo_trainer.worker"],
        environment=common | worker_environment(arguments, url=url),
        stop_seconds=WORKER_STOP_SECONDS,
    )
    supervisor = Supervisor(server, worker, on_ready=tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    with http:
        supervisor.run()
    say("tempo", f"stopped; everything is kept in {settings.root}")


def _is_healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/tempo/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _port(arguments: Sequence[str]) -> int:
    given = value_of("--port", arguments) or "8000"
    if not given.isdecimal() or int(given) > LAST_PORT:
        raise ServeError(f"--port {given} is no port; give a number up to {LAST_PORT}")
    return int(given)


def _reachable(host: str | None) -> str:
    if host in (None, "", "0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in str(host) else str(host)
