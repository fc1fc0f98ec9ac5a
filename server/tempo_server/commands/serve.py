"""Serve a model with vLLM and let it learn: Valkey, vLLM and the worker in one command.

    tempo serve MODEL [any flag of `vllm serve`]

MODEL is a directory or a model on the Hugging Face hub. Variables TEMPO_... set the rest, first of
all TEMPO_DATA_DIR, the directory of everything that must last (~/.tempo).

The server listens on 127.0.0.1 unless --host is given. Another address needs --api-key, the key
that users send, or --insecure-public.

Without TEMPO_REDIS_URL a private Valkey runs in the data directory. Only one `tempo serve` can use
such a directory at a time. A process that ends is started again.

SIGTERM and Ctrl-C end everything within 30 s: the worker commits the current iteration, then vLLM
finishes its requests. After the next start the worker repeats an iteration that took too long.

On a GPU vLLM gets half of the memory unless --gpu-memory-utilization is given, and the worker uses
the rest (not tried). On a CPU vLLM's KV cache takes at most a sixteenth of the memory, or room for
eight sequences, unless --kv-cache-memory-bytes is given.
"""

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tempo_server.commands import checks
from tempo_server.commands.checks import CheckError
from tempo_server.commands.exposure import check_exposure, users_key
from tempo_server.commands.flags import bound_host, flag_value, http_url, reachable_host
from tempo_server.commands.supervisor import Child, Supervisor, print_line
from tempo_server.front import is_loopback
from tempo_server.settings import ServerSettings
from tempo_storage.errors import TempoError
from tempo_storage.ledger.sessions import open_database
from tempo_storage.private import create_private
from tempo_storage.processes import forbid_core_files
from tempo_storage.settings import checked
from tempo_storage.valkey.embedded import keep_running

WORKER_STOP_SECONDS = 12.0
SERVER_STOP_SECONDS = 16.0  # 28 s with the worker's: an orchestrator kills after 30 s
# With -P a module of the working directory never stands for one of ours.
PYTHON = (sys.executable, "-P", "-m")
LOCK_FILE = "serve.lock"
MAX_PORT = 65535
PLAIN_HTTP = "the worker needs plain HTTP on --port; put TLS before it"
UNSUPPORTED_FLAGS = {
    "--config": "this command does not read the file; give its flags on the command line",
    **dict.fromkeys(("--uds", "--ssl-certfile", "--ssl-keyfile", "--headless"), PLAIN_HTTP),
}


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; return 0, or 1 after a line that says what is wrong."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        settings = check(arguments)
        forbid_core_files()
        with only_one(settings):
            check_stores(settings)  # under the lock, because it may migrate the ledger
            _run(arguments, settings)
    except TempoError as error:
        print(f"tempo: {error}", file=sys.stderr)
        return 1
    return 0


def check(arguments: Sequence[str]) -> ServerSettings:
    """Return the settings; raise CheckError or SettingsError for what would stop a child."""
    settings = checked(ServerSettings)
    checks.check_modules()
    for flag, reason in UNSUPPORTED_FLAGS.items():
        if flag_value(flag, arguments) is not None:
            raise CheckError(f"{flag}: {reason}")
    check_model(arguments[0])
    check_exposure(arguments, _default_key(settings))
    check_port(bound_host(arguments), port=_port(arguments))
    checks.check_disk(settings.root)
    return settings


def check_model(model: str) -> None:
    """Raise CheckError for a flag, and for a path that does not exist; vLLM finds hub ids."""
    if model.startswith("-"):
        raise CheckError(f"the model is missing before {model}; tempo serve MODEL [flags]")
    is_path = model.startswith(("/", "./", "../", "~")) or model.count("/") > 1
    if is_path and "://" not in model and not Path(model).expanduser().exists():
        raise CheckError(f"no model at {model}; give a directory with config.json, or a hub id")


def check_port(host: str, *, port: int) -> None:
    """Raise CheckError for an address on which nothing can listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]
        raise CheckError(
            f"cannot listen on port {port} ({reason}); stop the program that uses it, or give "
            "another --port"
        ) from error


@contextlib.contextmanager
def only_one(settings: ServerSettings) -> Iterator[None]:
    """Lock the data directory for the block; raise CheckError if another `tempo serve` has it.

    A second one would follow the same serving pointer, perhaps with another base model, and its
    worker would wait for ever. Replicas share a Valkey that TEMPO_REDIS_URL names; they need no
    lock. The kernel releases the lock however this process ends.
    """
    create_private(settings.root)
    if settings.redis_url:
        yield
        return
    with (settings.root / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CheckError(
                f"another `tempo serve` (pid {lock.read()}) uses the data directory "
                f"{settings.root}; stop it, or set TEMPO_DATA_DIR to another directory"
            ) from error
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        yield


def check_stores(settings: ServerSettings) -> None:
    """Bring the ledger up to date; check that Valkey answers if TEMPO_REDIS_URL names it."""
    with checks.database_errors():
        open_database(settings.resolved_database_url).kw["bind"].dispose()
    if settings.redis_url:
        checks.check_valkey(settings.redis_url)


def child_environments(
    arguments: Sequence[str], settings: ServerSettings, *, url: str, redis_url: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of the server and of the worker.

    Both get the users' key, so that neither must look for it in flags.
    """
    key = users_key(arguments, _default_key(settings))
    server = {"TEMPO_DIE_WITH_PARENT": "1", "TEMPO_REDIS_URL": redis_url}
    server |= {"TEMPO_VLLM_API_KEY": key} if key else {}
    return server, server | {"TEMPO_BASE_URL": url}


def _default_key(settings: ServerSettings) -> str:
    return os.environ.get("VLLM_API_KEY") or settings.vllm_api_key


def _run(arguments: Sequence[str], settings: ServerSettings) -> None:
    host = bound_host(arguments)
    port = _port(arguments)
    url = http_url(reachable_host(host), port)

    def announce() -> None:
        model = next(iter(settings.alias_names), "tempo-v0")  # TEMPO_ALIASES may be empty
        print_line("tempo", f"ready: {http_url(host, port)}/v1, model {model!r}")
        if not is_loopback(host):
            key = users_key(arguments, _default_key(settings))
            who = "whoever has the users' key" if key else "anybody, without a key"
            print_line("tempo", f"open to other machines, for {who}")
        variables = f"TEMPO_DATA_DIR={settings.root} TEMPO_BASE_URL={url}"
        print_line("tempo", f"{variables} tempo recalibrate FILE   # questions with answers")

    print_line("tempo", f"data in {settings.root}")
    print_line("tempo", "vLLM starts; on a CPU the first start compiles the model for minutes")
    redis_url = settings.redis_url or keep_running(settings.root)
    server_environment, worker_environment = child_environments(
        arguments, settings, url=url, redis_url=redis_url
    )
    with httpx.Client(base_url=url, timeout=1.0, trust_env=False) as http:
        server = Child(
            "server",
            [*PYTHON, "tempo_server.commands.vllm_serve", *arguments],
            environment=server_environment,
            is_ready=lambda: _is_healthy(http),
            stop_seconds=SERVER_STOP_SECONDS,
        )
        worker = Child(
            "worker",
            [*PYTHON, "tempo_trainer.worker"],
            environment=worker_environment,
            stop_seconds=WORKER_STOP_SECONDS,
        )
        supervisor = Supervisor(server, worker, on_ready=announce)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.stop)
        supervisor.run()
    if worker.was_killed:
        print_line("tempo", "the worker was ended in a step; after the next start it repeats it")
    print_line("tempo", f"stopped; questions, labels and versions are in {settings.root}")


def _is_healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/tempo/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _port(arguments: Sequence[str]) -> int:
    port = flag_value("--port", arguments) or "8000"
    if not port.isdecimal() or int(port) > MAX_PORT:
        raise CheckError(f"--port {port} is no port; give a number up to {MAX_PORT}")
    return int(port)
