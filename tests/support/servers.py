"""One vLLM with the plugin, as a process, and the workers that share its data directory."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from ports import free_port
from processes import clean_environment, merged
from rounds import SMALL
from sqlalchemy.orm import Session, sessionmaker
from valkeys import embedded_valkey

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.ledger.sessions import open_database
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import QuestionStream, redis_client

START_SECONDS = 240.0
STOP_SECONDS = 30.0
BASE_NAME = "tiny"
FLAGS = (
    *("--served-model-name", BASE_NAME, "--max-model-len", "128", "--max-num-seqs", "64"),
    *("--gpu-memory-utilization", "0.3"),  # the share of a machine that others use too
)
# Variables that each vLLM and each worker of the tests needs, whoever starts it.
ENVIRONMENT = {
    "TEMPO_DIE_WITH_PARENT": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCH_COMPILE_DISABLE": "1",  # compiling one log-prob kernel takes half a minute
}


@dataclass
class Server:
    """A vLLM with the plugin: how to start it, to talk to it, and to look into its stores."""

    model: Path
    data_dir: Path
    valkey: EmbeddedValkey
    port: int = field(default_factory=free_port)
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    worker_env: dict[str, str] = field(default_factory=dict)
    module: str = "tempo_server.commands.vllm_serve"
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def log(self) -> str:
        return (self.data_dir / "vllm.log").read_text(errors="replace")

    # Ways in --------------------------------------------------------------------------------------

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        return open_database(f"sqlite:///{self.data_dir / 'tempo.db'}")

    @cached_property
    def store(self) -> AdapterStore:
        return AdapterStore(self.data_dir / "adapters")

    @cached_property
    def stream(self) -> QuestionStream:
        return QuestionStream(redis_client(self.valkey.url))

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, timeout=60)

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key="user", max_retries=0)

    def admin(self) -> Tempo:
        """Return a client with the admin key; it is a context manager."""
        return Tempo(base_url=self.base_url, api_key=self.admin_key)

    # Start and end --------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every process of this deployment: the server's and the workers'."""
        own = {"TEMPO_DATA_DIR": str(self.data_dir), "TEMPO_REDIS_URL": self.valkey.url}
        return clean_environment() | ENVIRONMENT | own

    def start(self) -> None:
        """Start vLLM and wait until it answers."""
        command = [sys.executable, "-m", self.module, str(self.model), *FLAGS, *self.flags]
        with (self.data_dir / "vllm.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=self.environment | self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_healthy()

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Signal vLLM by its pid, and assert that its children end with it."""
        if self.process is None or self.process.poll() is not None:
            return
        children = psutil.Process(self.pid).children(recursive=True)
        self.process.send_signal(with_signal)
        self.process.wait(STOP_SECONDS)
        _, alive = psutil.wait_procs(children, timeout=STOP_SECONDS)
        for child in alive:
            child.kill()
        assert alive == []

    def restart(self, *, env: dict[str, str] | None = None) -> None:
        """Stop vLLM and start it again, with other variables of its own."""
        self.stop()
        self.env = env or {}
        self.start()

    @contextmanager
    def worker(self, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker of this deployment until the block ends; print its log if that fails."""
        own = self.environment | {"TEMPO_BASE_URL": self.base_url}
        env = merged(own, SMALL, self.worker_env, extra)
        log = self.data_dir / "worker.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tempo_trainer.worker"],
                env=env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            yield process
        except BaseException:
            print(log.read_text()[-6000:])
            raise
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Stop vLLM and close every connection."""
        self.stop()
        self.http.close()
        self.client.close()
        self.stream._client.close()
        self.sessions.kw["bind"].dispose()

    # The serving pointer --------------------------------------------------------------------------

    def promote(self, version: int) -> str | None:
        """Move the serving pointer, wait until the server has read it; return why it refused."""
        with self.sessions.begin() as s:
            sequence = ledger.versions.promote(s, version).sequence
        return self.wait_for_sequence(sequence)

    def serve_base(self) -> None:
        """Let the base serve, whatever was promoted before."""
        self.promote(ledger.versions.BASE)

    def wait_for_sequence(self, sequence: int, *, seconds: float = 10.0) -> str | None:
        """Wait until the server has read the pointer at `sequence`; return why it refused."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.sessions() as s:
                alive = ledger.versions.processes(s, alive_within_seconds=3)
            if alive and all(p.sequence >= sequence for p in alive):
                return alive[-1].error
            time.sleep(0.05)
        raise AssertionError(f"no process acknowledged sequence {sequence}\n{self.log[-3000:]}")

    def _wait_until_healthy(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.base_url}/health", timeout=1).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        self.stop()
        raise AssertionError(f"vLLM did not start:\n{self.log[-6000:]}")


@contextmanager
def serving(model: Path, data_dir: Path, **options: Any) -> Iterator[Server]:
    """Serve a model beside the data directory's own Valkey until the block ends.

    `options` are fields of Server: `flags` are added to vLLM's flags, `env` to its variables.
    """
    with embedded_valkey(data_dir) as valkey:
        server = Server(model, data_dir, valkey, **options)
        try:
            server.start()
            yield server
        finally:
            server.close()
