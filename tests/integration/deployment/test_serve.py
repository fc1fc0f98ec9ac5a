"""`tempo serve` as an operator runs it: one command, `status`, `doctor`, a restart, the end."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from ports import free_port
from processes import clean_environment
from servers import ENVIRONMENT, START_SECONDS, STOP_SECONDS

from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import redis_client

pytestmark = [pytest.mark.vllm, pytest.mark.service]

TEMPO = [sys.executable, "-m", "tempo_client.cli"]
FLAGS = ("--max-model-len", "128", "--gpu-memory-utilization", "0.3", "--host", "127.0.0.1")


@dataclass
class Deployment:
    """A running `tempo serve`."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    data_dir: Path
    port: int

    @property
    def log(self) -> str:
        return (self.data_dir / "serve.log").read_text(errors="replace")

    def tempo(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return its output."""
        command = [*TEMPO, *arguments, "--json"]
        done = subprocess.run(command, env=self.env, capture_output=True, timeout=60, check=False)
        assert done.returncode == code, done
        return json.loads(done.stdout)

    def wait_for(self, condition: Callable[[], Any], *, seconds: float) -> Any:
        """Return the condition's first true value, as long as the deployment runs."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            running = self.process.poll() is None and time.monotonic() < deadline
            assert running, f"it did not become true; the log ends:\n{self.log[-4000:]}"
            time.sleep(0.2)
        return value

    def worker(self) -> str | None:
        """Return the owner of the lease."""
        owner: str | None = self.tempo("status")["worker"]["owner"]
        return owner


@pytest.fixture(scope="module")
def deployment(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    data_dir = tmp_path_factory.mktemp("serve")
    port = free_port()
    env = clean_environment() | ENVIRONMENT
    env |= {"TEMPO_DATA_DIR": str(data_dir), "TEMPO_BASE_URL": f"http://127.0.0.1:{port}"}
    del env["TEMPO_DIE_WITH_PARENT"]  # `tempo serve` sets it for its children
    command = [*TEMPO, "serve", str(tiny_base), *FLAGS, "--port", str(port)]
    with (data_dir / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    running = Deployment(process, env, data_dir, port)
    try:
        running.wait_for(lambda: "tempo  | ready: " in running.log, seconds=START_SECONDS)
        running.wait_for(running.worker, seconds=60)
        yield running
    finally:
        process.kill()  # has no effect if the last test has ended it
        process.wait()


def test_status_and_doctor_report_no_error(deployment: Deployment) -> None:
    status = deployment.tempo("status")
    assert status["serving_adapter"] == "tempo-v0"
    assert [process["error"] for process in status["processes"]] == [None]
    checks = deployment.tempo("doctor")
    assert [check["name"] for check in checks] == [
        *("settings", "vllm", "plugins", "disk", "files", "valkey", "database", "worker"),
        *("server", "key", "flags", "stream", "serving"),
    ]


def test_every_line_of_the_log_names_its_process(deployment: Deployment) -> None:
    actors = {line.partition("|")[0].strip() for line in deployment.log.splitlines()}
    assert actors == {"tempo", "server", "worker"}


def test_a_new_worker_replaces_one_that_dies(deployment: Deployment) -> None:
    before = deployment.worker()
    assert before is not None
    psutil.Process(int(before.rpartition(":")[2])).kill()
    owner = deployment.wait_for(lambda: (now := deployment.worker()) != before and now, seconds=90)
    assert owner
    assert "worker | ended with -9, starts again in 1 s" in deployment.log


def test_the_doctor_finds_a_valkey_that_may_evict_questions(deployment: Deployment) -> None:
    with redis_client(EmbeddedValkey(deployment.data_dir).url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        failed = [c for c in deployment.tempo("doctor", code=1) if not c["ok"]]
        client.config_set("maxmemory-policy", "noeviction")
    assert [check["name"] for check in failed] == ["valkey"]
    assert "noeviction" in failed[0]["fix"]


def test_a_second_deployment_on_the_same_port_is_refused_in_one_line(
    deployment: Deployment,
) -> None:
    command = [*TEMPO, "serve", "org/model", "--port", str(deployment.port)]
    done = subprocess.run(
        [*command, "--host", "127.0.0.1"],
        env=deployment.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"tempo: cannot listen on port {deployment.port} (Address already in use); stop the "
        "program that uses it, or give another --port"
    ]


@pytest.mark.fault(19, "SIGTERM", promise="work under way ends within 30 s, with exit code 0")
def test_sigterm_ends_every_process_in_time_and_cuts_no_answer(deployment: Deployment) -> None:
    family = psutil.Process(deployment.process.pid).children(recursive=True)
    assert len(family) >= 3  # Valkey, vLLM, the worker
    ends: list[str | None] = []
    users = [threading.Thread(target=ask_until_it_ends, args=(deployment, ends)) for _ in range(3)]
    for user in users:
        user.start()
    deployment.wait_for(lambda: len(ends) > 6, seconds=30)
    start = time.monotonic()
    deployment.process.terminate()
    assert deployment.process.wait(STOP_SECONDS + 5) == 0
    assert time.monotonic() - start < STOP_SECONDS
    for user in users:
        user.join(10)
    assert set(ends) == {"length"}
    assert psutil.wait_procs(family, timeout=5)[1] == []


def ask_until_it_ends(deployment: Deployment, ends: list[str | None]) -> None:
    """Stream answers until the server takes no more; note the end of each that began."""
    options = {"min_tokens": 60, "ignore_eos": True}
    url = f"http://127.0.0.1:{deployment.port}/v1"
    with openai.OpenAI(base_url=url, api_key="user", max_retries=0) as client:
        while True:
            began = False
            reason = None
            try:
                stream = client.completions.create(
                    model="tempo", prompt="1", max_tokens=60, stream=True, extra_body=options
                )
                for chunk in stream:
                    began = began or bool(chunk.choices[0].text)
                    reason = chunk.choices[0].finish_reason or reason
            except Exception:  # of whichever HTTP library the client brings
                reason = "cut"
            if not began:
                return
            ends.append(reason)
