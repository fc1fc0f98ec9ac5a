"""The real thing, once per session: a small model, Valkey, and one vLLM that serves it."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from safetensors.numpy import save_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, Manifest, version_name
from tempo_storage.ledger.models import Adapter
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


@dataclass
class Server:
    """One vLLM with the plugin, and what it shares with a worker."""

    model: Path
    data_dir: Path
    valkey: EmbeddedValkey
    port: int
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)
    worker_env: dict[str, str] = field(default_factory=dict)

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

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this deployment needs; a worker too."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TEMPO_", "VLLM_"))}
        return kept | {
            "TEMPO_DATA_DIR": str(self.data_dir),
            "TEMPO_REDIS_URL": self.valkey.url,
            "TEMPO_DIE_WITH_PARENT": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "TORCH_COMPILE_DISABLE": "1",  # compiling one log-prob kernel takes half a minute
        }

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "tempo_server.commands.vllm_serve",
            str(self.model),
            *FLAGS,
            *self.flags,
        ]
        with (self.data_dir / "vllm.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=self.environment | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Signal vLLM by its pid, and see that its children go with it."""
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
        self.stop()
        self.env = env or {}
        self.start()

    @contextmanager
    def worker(self, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker of this deployment until the block ends."""
        from small import SMALL

        env = self.environment | {"TEMPO_BASE_URL": self.base_url} | SMALL | self.worker_env | extra
        log = self.data_dir / "worker.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tempo_trainer.worker"],
                env=env,
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
            process.wait(30)

    def close(self) -> None:
        self.stop()
        self.http.close()
        self.client.close()
        self.stream._client.close()
        self.sessions.kw["bind"].dispose()

    def promote(self, version: int) -> None:
        """Move the serving pointer and wait until the server acknowledges it."""
        with self.sessions.begin() as s:
            sequence = ledger.versions.promote(s, version).sequence
        self.wait_for_sequence(sequence)

    def serve_base(self) -> None:
        """Take every adapter back, whatever was promoted before."""
        self.promote(ledger.versions.BASE)

    def wait_for_sequence(self, sequence: int, *, seconds: float = 10.0) -> str | None:
        """Wait until the server has seen the pointer at `sequence`; return what it refused."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.sessions() as s:
                alive = ledger.versions.processes(s, alive_within_seconds=3)
            if alive and all(p.sequence >= sequence for p in alive):
                return alive[-1].error
            time.sleep(0.05)
        raise AssertionError(f"nobody acknowledged sequence {sequence}\n{self.log[-3000:]}")

    def _wait(self) -> None:
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


StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]
MakeAdapter = Callable[..., Manifest]
MakeVersion = Callable[..., int]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A countdown model that gives some right and many wrong answers."""
    from tempo_lab.tasks.base import (
        Recipe,
        build_base,  # torch, for those who need it
    )

    recipe = Recipe(hidden=64, layers=2, heads=2, intermediate=192, steps=200, batch=64)
    return build_base(tmp_path_factory.mktemp("base"), recipe=recipe)


@contextmanager
def serving(model: Path, data_dir: Path, **options: Any) -> Iterator[Server]:
    """Serve a model beside the data directory's own Valkey until the block ends."""
    with EmbeddedValkey(data_dir) as valkey:
        running = Server(model, data_dir, valkey, _free_port(), **options)
        try:
            running.start()
            yield running
        finally:
            running.close()


@pytest.fixture(scope="session")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_base, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[Server]]:
    """For a test that wants a server of its own: `with serve(model, data_dir) as server`.

    `flags` are added to vLLM's, `env` to its environment.
    """
    return serving


@pytest.fixture(scope="session")
def make_adapter(tiny_base: Path) -> MakeAdapter:
    """Publish a random adapter for the small model: make_adapter(store, name, scale=…, seed=…).

    `then(directory)` goes on writing.
    """

    def make(
        store: AdapterStore,
        name: str,
        *,
        scale: float = 0.3,
        seed: int = 0,
        rank: int = 8,
        base: str | None = None,
        then: Callable[[Path], None] = lambda directory: None,
    ) -> Manifest:
        def write(directory: Path) -> None:
            write_lora(directory, tiny_base, scale=scale, seed=seed, rank=rank)
            then(directory)

        return store.publish(name, write, base=base or str(tiny_base), info={})

    return make


@pytest.fixture(scope="session")
def make_version(server: Server, make_version_of: MakeVersion) -> MakeVersion:
    """Publish a random adapter as the next version, with its row: make_version(seed=…)."""
    return functools.partial(make_version_of, server)


@pytest.fixture(scope="session")
def make_version_of(make_adapter: MakeAdapter) -> MakeVersion:
    """The same for a server of the test's own: make_version_of(server, seed=…)."""

    def make(server: Server, **options: object) -> int:
        with server.sessions.begin() as s:
            version = ledger.versions.next_version(s)
            manifest = make_adapter(server.store, version_name(version), **options)
            s.add(candidate(version, bytes=manifest.bytes))
        return version

    return make


@pytest.fixture
def worker(server: Server) -> StartWorker:
    """Return a context manager that runs a worker process with extra variables."""
    return server.worker


def candidate(version: int, *, bytes: int) -> Adapter:
    return Adapter(
        version=version,
        status="candidate",
        parent=0,
        job_id="job_test",
        checkpoint="",
        sha256="",
        bytes=bytes,
        report={},
        created_at=time.time(),
    )


def write_lora(directory: Path, model: Path, *, scale: float, seed: int, rank: int) -> None:
    """Write a PEFT adapter with normal weights on every linear layer of a Qwen3 model."""
    config = json.loads((model / "config.json").read_text())
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    attention = config["num_attention_heads"] * config["head_dim"]
    shapes = {
        "self_attn.q_proj": (hidden, attention),
        "self_attn.k_proj": (hidden, attention),
        "self_attn.v_proj": (hidden, attention),
        "self_attn.o_proj": (attention, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (inputs, outputs) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            a = random.normal(0, inputs**-0.5, (rank, inputs))
            b = random.normal(0, scale * rank**-0.5, (outputs, rank))
            tensors[f"{prefix}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(name.split(".")[1] for name in shapes),
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
