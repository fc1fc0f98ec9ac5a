"""Make a small data directory with the code of an older commit, on real parts.

    git worktree add /tmp/old 389b244
    python tests/integration/upgrades/make_data.py --code /tmp/old --archive data_389b244.tar.gz

The archive holds the base model, the data directory, an operator's own verifier, the secret of a
key that may only read, and the same ledger for PostgreSQL, in the tables of the old code. Processes
run in the archive's own root with relative paths, so that the files name no path of the machine on
which they were made. Host names are replaced. Ids and figures differ from run to run: the tests
name those of the archive.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

sys.path.append(str(Path(__file__).parents[2] / "support"))
sys.path.append(str(Path(__file__).parent))
from archive import compact_valkey, dump_for_postgresql, make_portable
from processes import clean_environment, install
from waiting import eventually

from tempo_client import Tempo

PORT = 18389
MIGRATIONS = "tempo_storage.migrations"
RANK = "1"
DATA = Path("data")
JOB_SECONDS = 240.0
FLAGS = ("--served-model-name", "tiny", "--max-model-len", "128", "--gpu-memory-utilization", "0.3")
BASE = """
from pathlib import Path
from tempo_trainer.demo.base import Recipe, build_base
recipe = Recipe(hidden=32, layers=1, heads=1, intermediate=64, steps=200, batch=64)
build_base(Path("."), recipe=recipe).rename("base")
"""
# An operator's own verifier, installed beside the product. The base often writes two equations, and
# noise never does.
VERIFIER = """
import re
from tempo_trainer.verifiers import Verdict

class Equations:
    name = "equations"

    def check_reference(self, reference):
        return None

    def verify(self, response, reference, metadata):
        found = re.findall(r"= \\d+ ;", " ".join(response.split()))
        return Verdict(correct=len(found) >= 2)
"""
QUESTIONS = [f"use {n} {n + 3} {n + 7} make {2 * n + 10} ?" for n in range(1, 13)]
LABELED = [f"use {n} {n + 2} {n + 5} make {2 * n + 7} ?" for n in range(1, 101)]
# Settings of the old code, whose names the present one may no longer know.
SMALL = {
    "TEMPO_MAX_RESPONSE_TOKENS": "16",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_WARM_UP_STEPS": "2",
    "TEMPO_WARM_UP_QUESTIONS": "16",
    "TEMPO_LABELED_PER_STEP": "8",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "8",
    "TEMPO_REPLAY_BATCHES": "0",
    "TEMPO_CRITIC_RANK": RANK,
    "TEMPO_LORA_ALPHA": "2",
    "TEMPO_POLICY_LEARNING_RATE": "0.02",
    "TEMPO_GATE_SAMPLES": "4",
    "TEMPO_GATE_DELTA": "1",
    "TEMPO_GATE_PASS_K_MARGIN": "1",
    "TEMPO_GATE_ENTROPY_RATIO": "0",
    "TEMPO_FITNESS_AUROC": "0",
    "TEMPO_FITNESS_COSINE": "-1",
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
    "TEMPO_THREADS": "1",
    "TEMPO_ROUND_QUESTIONS": "0",
    "TEMPO_SENTINEL_SECONDS": "0",
}
# One step of this size and the policy speaks noise, which the gate rejects.
NOISE = {"TEMPO_POLICY_LEARNING_RATE": "0.5", "TEMPO_GATE_DELTA": "0.02"}
SENTINEL = {"TEMPO_SENTINEL_SECONDS": "1", "TEMPO_SENTINEL_CHECKS": "1"}


def main() -> None:
    """Make the archive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--code", type=Path, required=True, help="a checkout of the old commit")
    parser.add_argument("--archive", type=Path, required=True)
    options = parser.parse_args()
    archive = options.archive.resolve()
    os.chdir(root := Path(tempfile.mkdtemp(prefix="tempo-old-")))
    print(f"everything is in {root}")
    environment = old_environment(options.code.resolve())
    run(environment, "-c", BASE)
    live(environment)
    make_portable(DATA)
    dump_for_postgresql(DATA, lambda there: run(environment | there, "-m", MIGRATIONS))
    with tarfile.open(archive, "w:gz") as tar:
        for path in ("base", "data", "installed", "postgresql.sql", "reader.key"):
            tar.add(path)
    print(f"{archive}: {archive.stat().st_size / 1024:.0f} KiB")


def old_environment(code: Path) -> dict[str, str]:
    """Return variables with which Python finds the old packages and their entry points."""
    project = tomllib.loads((code / "pyproject.toml").read_text())["project"]
    # A distribution on PYTHONPATH hides the installed one of the same name.
    info = Path("product") / f"vllm_tempo-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: vllm-tempo\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    entry = "[tempo.verifiers]\nequations = equations:Equations\n"
    install(Path("installed"), "equations", VERIFIER, entry_points=entry)
    rooms = [str(code / room) for room in ("server", "trainer", "storage", "clients")]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    here = [str(Path(name).resolve()) for name in ("product", "installed")]
    return clean_environment() | {
        "PYTHONPATH": os.pathsep.join([*here, *rooms, *inherited]),
        "TEMPO_DATA_DIR": str(DATA),
        "TEMPO_BASE_URL": f"http://127.0.0.1:{PORT}",
        "TEMPO_LORA_RANK": RANK,
        "TEMPO_DIE_WITH_PARENT": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }


def run(environment: dict[str, str], *arguments: str) -> str:
    """Run Python with the old code and return its output."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


@contextmanager
def started(
    environment: dict[str, str], name: str, *command: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of the old code until the block ends; it may finish its work."""
    with Path(f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


# The deployment's history ------------------------------------------------------------------------


def live(environment: dict[str, str]) -> None:
    """Serve, learn, reject, force, roll back, sweep; leave one job queued."""
    DATA.mkdir()
    server = ("tempo_server.launcher", "base", *FLAGS, "--port", str(PORT))
    with started(environment, "server", *server) as process:
        url = environment["TEMPO_BASE_URL"]
        eventually(lambda: process.poll() is not None or is_healthy(url), seconds=JOB_SECONDS)
        key = (DATA / "admin.key").read_text().strip()
        with Tempo(base_url=url, api_key=key) as tempo:
            begin(tempo, environment)
            learn(tempo, environment)
            reject_and_roll_back(tempo, environment)
            sweep_and_check(tempo, environment)
            reader = tempo.keys.create("reader")
            Path("reader.key").write_text(f"{reader.key}\n")
            tempo.jobs.create("round", max_steps=1)  # no worker runs: it stays queued
        compact_valkey(DATA / "valkey.sock")


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def worker(environment: dict[str, str], **changes: str) -> Iterator[None]:
    with started(environment | SMALL | changes, "worker", "tempo_trainer.worker"):
        yield


def finished(tempo: Tempo, mode: str, *, steps: int = 1, status: str = "succeeded") -> Any:
    """Create a job and return it when it has ended as expected."""
    job = tempo.jobs.create(mode, max_steps=steps)
    job = eventually(
        lambda: (now := tempo.jobs.retrieve(job.id)).is_finished and now, seconds=JOB_SECONDS
    )
    assert job.status == status, job
    print(job.mode, job.status, job.result and job.result.get("summary"), job.error)
    return job


def begin(tempo: Tempo, environment: dict[str, str]) -> None:
    """Upload labeled questions; a round without questions fails, another job is cancelled."""
    tempo.files.create(
        {"question": text, "answer": "two", "verifier": "equations"} for text in LABELED
    )
    with worker(environment):
        finished(tempo, "round", status="failed")
    tempo.jobs.cancel(tempo.jobs.create("recalibrate", max_steps=1).id)
    for text in QUESTIONS:
        ask(tempo, text)


def ask(tempo: Tempo, text: str) -> None:
    messages = [{"role": "user", "content": text}]
    request = {"model": "tempo", "messages": messages, "max_tokens": 4}
    url = f"{tempo.base_url}/v1/chat/completions"
    assert httpx.post(url, json=request, timeout=60).status_code == 200


def learn(tempo: Tempo, environment: dict[str, str]) -> None:
    """Recalibrate; let rounds promote two versions."""
    with worker(environment):
        finished(tempo, "recalibrate")
        for _ in range(2):
            promoted(tempo)


def promoted(tempo: Tempo, *, steps: int = 1) -> str:
    """Let the base serve, so that the gate asks little; return the version of a round."""
    if tempo.status().serving_adapter != "tempo-v0":
        tempo.adapters.rollback(to="tempo-v0", reason="the next round starts from the base")
    job = finished(tempo, "round", steps=steps)
    assert job.result["decision"] == "promoted", job
    return str(job.result["adapter"])


def reject_and_roll_back(tempo: Tempo, environment: dict[str, str]) -> None:
    """The gate rejects a version that is noise; once forced, the sentinel rolls it back."""
    before = tempo.status().serving_adapter
    with worker(environment, **NOISE):
        job = finished(tempo, "round")
    assert job.result["decision"] == "rejected", job
    tempo.adapters.promote(job.result["adapter"], force=True, reason="a test of the sentinel")
    with worker(environment, **SENTINEL):
        eventually(lambda: tempo.status().serving_adapter == before, seconds=JOB_SECONDS)
    assert tempo.status().paused
    tempo.training.resume()


def sweep_and_check(tempo: Tempo, environment: dict[str, str]) -> None:
    """Promote one more version, sweep the oldest, and let a check find the newest sound."""
    with worker(environment, TEMPO_VERSIONS_KEPT="3"):
        # The server keeps the adapters that it loaded last: four snapshots displace version 1.
        name = promoted(tempo, steps=4)
    assert "swept" in tempo.adapters.retrieve("tempo-v1").report
    with worker(environment, TEMPO_SENTINEL_SECONDS="1"):
        eventually(lambda: "sentinel" in tempo.adapters.retrieve(name).report, seconds=JOB_SECONDS)
    assert tempo.status().serving_adapter == name


if __name__ == "__main__":
    main()
