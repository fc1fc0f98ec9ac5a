"""The main job on a real model: serve, learn, promote, and tell the right version from wrong ones.

    python tests/smoke/run.py --model smollm2      # `make smoke MODEL=smollm2`
    python tests/smoke/run.py --model DIRECTORY    # any other model that fits this machine

Versions are made until the served adapter moves the log-probability of a token by 0.2 nats on
average. Then the base, the version before it and a copy with four times its alpha are published
with the same probe.json: the server must refuse all three and go on serving.

It proves the way from the trainer to the user, not a gain: after so few questions the gate rightly
rejects most versions, and they are promoted by force. The last line is the result as JSON.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import psutil
import smollm2
from reasoning_gym import create_dataset
from rich.console import Console
from safetensors.torch import load_file, save_file

from tempo_client import ConflictError, Tempo
from tempo_client.types import Adapter, Job
from tempo_lab.demo.processes import Process, free_port
from tempo_lab.demo.run import CACHE
from tempo_storage import ledger
from tempo_storage.adapters import FILES, PROBE_FILE, AdapterStore, version_name, version_of
from tempo_storage.errors import TempoError
from tempo_storage.ledger.models import Adapter as AdapterRow
from tempo_storage.ledger.sessions import open_database

console = Console(highlight=False)
QUESTIONS, LABELED = 16, 64
EFFECT = 0.2  # nats
MOST_VERSIONS = 6
JOB_SECONDS = 600.0
PROBE_SECONDS = 90.0
FLAGS = ("--max-model-len", "512", "--max-num-seqs", "64", "--gpu-memory-utilization", "0.3")
# Small and fast: what is shown is that an update arrives, not that it helps.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TEMPO_DTYPE": "bfloat16",  # what vLLM serves in
    "TEMPO_ROUND_QUESTIONS": "0",
    "TEMPO_MAX_RESPONSE_TOKENS": "32",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_LABELED_PER_STEP": "8",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "4",
    "TEMPO_WARM_UP_STEPS": "3",
    "TEMPO_WARM_UP_QUESTIONS": "8",
    "TEMPO_CRITIC_EPOCHS": "1",
    "TEMPO_REPLAY_BATCHES": "0",
    "TEMPO_GATE_SAMPLES": "2",
    "TEMPO_POLICY_LEARNING_RATE": "5e-4",
    "TEMPO_KL_COEFFICIENT": "0",
    "TEMPO_FITNESS_AUROC": "0",
    "TEMPO_FITNESS_COSINE": "-1",
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
}
STEPS = 3  # iterations of a round


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the smoke test; return 0 when the right version serves and the wrong ones are refused."""
    options = _options(arguments)
    try:
        result = run(options.model, data_dir=options.data_dir)
    except (TempoError, openai.OpenAIError, RuntimeError) as error:
        console.print(f"[red]smoke test failed:[/] {error}", markup=True)
        return 1
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def run(model: str, *, data_dir: Path | None = None) -> dict[str, Any]:
    """Serve the model, learn, probe; return the figures."""
    began = time.monotonic()
    base = smollm2.build(CACHE) if model == "smollm2" else Path(model).resolve()
    root = data_dir or Path(tempfile.mkdtemp(prefix="tempo-smoke-"))
    with _served(base, root) as url, _peak_memory() as peak_bytes:
        key = (root / "admin.key").read_text().strip()
        with (
            Tempo(base_url=url, api_key=key) as tempo,
            tempo.openai(max_retries=0) as client,
        ):
            answered = _ask(client, _questions(QUESTIONS, seed=1))
            served = _learn(tempo)
            impostors = {name: _refused(tempo, root, *case) for name, *case in _impostors(served)}
            who = _ask(client, _questions(1, seed=3))
    probe = served[-1].report["probe"]
    return {
        "model": base.name,
        "adapter": served[-1].id,
        "answered_by": sorted(who),
        "questions": sum(answered.values()),
        "probe": _figures(probe),
        "impostors": {name: _figures(found) for name, found in impostors.items()},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "ok": probe["verdict"] == "passed"
        and set(who) == {served[-1].id}
        and all(found["verdict"] == "failed" for found in impostors.values()),
    }


# The deployment ----------------------------------------------------------------------------------


@contextmanager
def _served(base: Path, root: Path) -> Iterator[str]:
    """Run `tempo serve` on a free port until the block ends; yield its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    console.print(f"tempo serve {base}; log in {root / 'serve.log'}")
    command = ["serve", str(base), "--host", "127.0.0.1", "--port", str(port), *FLAGS]
    environment = {**ENVIRONMENT, "TEMPO_DATA_DIR": str(root), "TEMPO_DIE_WITH_PARENT": "1"}
    process = Process("tempo_client.cli", command, log=root / "serve.log", env=environment)
    try:
        process.wait_until_healthy(f"{url}/health")
        yield url
    finally:
        process.stop()


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """Watch this process and its children; yield the most memory that they held together, bytes."""
    ended, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(2.0):
            peak = max(peak, sum(_resident(process) for process in _family()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        ended.set()
        thread.join()


def _family() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _resident(process: psutil.Process) -> int:
    """Return a process's proportional share of memory; 0 when it has just ended."""
    try:
        share: int = process.memory_full_info().pss
        return share
    except psutil.Error:
        return 0


# The loop ----------------------------------------------------------------------------------------


def _questions(count: int, *, seed: int) -> list[dict[str, Any]]:
    rows = create_dataset("chain_sum", size=count, seed=seed, max_terms=2, max_digits=1)
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _ask(client: openai.OpenAI, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Ask every question; return how many each model answered."""
    counts: dict[str, int] = {}
    for row in rows:
        reply = client.chat.completions.create(
            model="tempo", messages=[{"role": "user", "content": row["question"]}], max_tokens=32
        )
        counts[reply.model] = counts.get(reply.model, 0) + 1
    console.print("answered by: " + ", ".join(f"{who} {n}" for who, n in counts.items()))
    return counts


def _learn(tempo: Tempo) -> list[Adapter]:
    """Recalibrate once, then refine and promote until the served effect is large enough."""
    rows = ({**row, "verifier": "numeric"} for row in _questions(LABELED, seed=2))
    uploaded = tempo.files.create(rows)
    _wait(tempo, tempo.jobs.create(training_file=uploaded.id, mode="recalibrate"))
    served: list[Adapter] = []
    while len(served) < MOST_VERSIONS:
        job = _wait(tempo, tempo.jobs.create(mode="round", max_steps=STEPS))
        served.append(_promoted(tempo, job.result["adapter"]))
        if len(served) > 1 and served[-1].report["probe"]["effect"] >= EFFECT:
            return served
    raise RuntimeError(f"after {MOST_VERSIONS} versions the effect is still below {EFFECT} nats")


def _promoted(tempo: Tempo, name: str) -> Adapter:
    """Promote a version whatever the gate said; return it as probed, which it must have passed."""
    tempo.adapters.promote(name, force=True, reason="smoke test")
    adapter = _probed(tempo, name)
    console.print(f"  {name}: the probe {adapter.report['probe']['reason']}")
    if tempo.status().serving_adapter != name:
        raise RuntimeError(f"{name} does not serve: {adapter.report}")
    return adapter


def _probed(tempo: Tempo, name: str) -> Adapter:
    deadline = time.monotonic() + PROBE_SECONDS
    while "probe" not in (adapter := tempo.adapters.retrieve(name)).report:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} was not probed within {PROBE_SECONDS:.0f} s")
        time.sleep(0.5)
    return adapter


def _wait(tempo: Tempo, job: Job) -> Job:
    done = tempo.jobs.wait(job.id, timeout=JOB_SECONDS)
    console.print(f"  {done.result['summary']}")
    return done


# The impostors -----------------------------------------------------------------------------------

Spoil = Callable[[Path], None]


def _impostors(served: Sequence[Adapter]) -> Iterator[tuple[str, str, str, Spoil]]:
    """Yield what passes itself off as the last version: name, whose files, whose probe, change."""
    last, previous = served[-1].id, served[-2].id
    yield "base", last, last, _silence
    yield "previous version", previous, last, lambda directory: None
    yield "alpha x 4", last, last, _quadruple_alpha


def _refused(tempo: Tempo, root: Path, files: str, probe: str, spoil: Spoil) -> dict[str, Any]:
    """Publish and promote an impostor; return what its probe found, with the right one serving."""
    store, sessions = AdapterStore(root / "adapters"), open_database(_database(root))

    def write(directory: Path) -> None:
        for file in FILES:
            shutil.copy(store.path(files) / file, directory)
        shutil.copy(store.path(probe) / PROBE_FILE, directory)
        spoil(directory)

    with sessions.begin() as s:
        version = ledger.versions.next_version(s)
        manifest = store.publish(
            name := version_name(version), write, base=store.manifest(files).base, info={}
        )
        s.add(_row(version, version_of(probe), manifest.bytes))
    with suppress(ConflictError):  # the probe is sooner than the answer
        tempo.adapters.promote(name, reason="smoke test: an impostor")
    found: dict[str, Any] = _probed(tempo, name).report["probe"]
    tempo.adapters.rollback(probe, reason="smoke test")
    console.print(f"  {name}: the probe {found['verdict']}: {found['reason']}")
    return found


def _silence(directory: Path) -> None:
    path = directory / FILES[1]
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)


def _quadruple_alpha(directory: Path) -> None:
    path = directory / FILES[0]
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))


def _row(version: int, parent: int, size: int) -> AdapterRow:
    return AdapterRow(
        version=version,
        status="candidate",
        parent=parent,
        job_id="",
        checkpoint="",
        sha256="",
        bytes=size,
    )


def _database(root: Path) -> str:
    return f"sqlite:///{root / 'tempo.db'}"


def _figures(probe: dict[str, Any]) -> dict[str, Any]:
    return {
        key: probe[key] for key in ("verdict", "tokens", "effect", "noise", "correlation", "slope")
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smollm2", help="smollm2, or a model's directory")
    parser.add_argument("--data-dir", type=Path, help="default: a new temporary directory")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
