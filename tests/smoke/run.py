"""The main job on a real model: serve it, learn, promote, and refuse three wrong adapters.

    python tests/smoke/run.py --model smollm2      # `make smoke MODEL=smollm2`
    python tests/smoke/run.py --model DIRECTORY    # any other model that fits this machine

Versions are made until the served adapter moves the log-probability of a token by 0.2 nats on
average. Then the base, the version before it and a copy with four times its alpha are published
with the same probe.json. The server must refuse all three and go on serving.

This proves that an update gets from the trainer to the user. It proves no gain: after so few
questions the gate rightly rejects most versions, and they are promoted by force. The last line of
the output is the result as JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
from deployment import peak_memory, served
from impostors import Impostor, impostors, publish
from reasoning_gym import create_dataset
from rich.console import Console

from tempo_client import ConflictError, Tempo
from tempo_client.types import Adapter, Job
from tempo_lab.learn import smollm2
from tempo_lab.tasks.base import CACHE
from tempo_storage.errors import TempoError

console = Console(highlight=False)
QUESTIONS = 16
LABELED = 64
EFFECT = 0.2  # nats
MAX_VERSIONS = 6
STEPS = 3  # iterations of a round
JOB_SECONDS = 600.0
PROBE_SECONDS = 90.0
FIGURES = ("verdict", "tokens", "effect", "noise", "correlation", "slope")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the smoke test; return 0 if the right version serves and the wrong ones are refused."""
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
    start = time.monotonic()
    base = smollm2.build(CACHE) if model == "smollm2" else Path(model).resolve()
    root = data_dir or Path(tempfile.mkdtemp(prefix="tempo-smoke-"))
    console.print(f"tempo serve {base}; log in {root / 'serve.log'}")
    with served(base, root) as url, peak_memory() as peak_bytes:
        key = (root / "admin.key").read_text().strip()
        with (
            Tempo(base_url=url, api_key=key) as tempo,
            tempo.openai(max_retries=0) as client,
        ):
            answered = _ask(client, _questions(QUESTIONS, seed=1))
            versions = _learn(tempo)
            last = versions[-1]
            refused = {
                impostor.description: _refused(tempo, root, impostor)
                for impostor in impostors(last.id, versions[-2].id)
            }
            answered_last = _ask(client, _questions(1, seed=3))
    probe = last.report["probe"]
    return {
        "model": base.name,
        "adapter": last.id,
        "answered_by": sorted(answered_last),
        "questions": sum(answered.values()),
        "probe": _figures(probe),
        "impostors": {name: _figures(figures) for name, figures in refused.items()},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
        "ok": probe["verdict"] == "passed"
        and set(answered_last) == {last.id}
        and all(figures["verdict"] == "failed" for figures in refused.values()),
    }


# The loop ----------------------------------------------------------------------------------------


def _questions(count: int, *, seed: int) -> list[dict[str, Any]]:
    rows = create_dataset("chain_sum", size=count, seed=seed, max_terms=2, max_digits=1)
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _ask(client: openai.OpenAI, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Ask every question; return the number of answers of each model."""
    counts: dict[str, int] = {}
    for row in rows:
        reply = client.chat.completions.create(
            model="tempo", messages=[{"role": "user", "content": row["question"]}], max_tokens=32
        )
        counts[reply.model] = counts.get(reply.model, 0) + 1
    console.print("answered by: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return counts


def _learn(tempo: Tempo) -> list[Adapter]:
    """Recalibrate once, then refine and promote until the served effect is large enough."""
    rows = ({**row, "verifier": "numeric"} for row in _questions(LABELED, seed=2))
    uploaded = tempo.files.create(rows)
    _wait(tempo, tempo.jobs.create(training_file=uploaded.id, mode="recalibrate"))
    versions: list[Adapter] = []
    while len(versions) < MAX_VERSIONS:
        # The gate judges each round's version; after refusals it would wait for some rounds.
        job = _wait(tempo, tempo.jobs.create(mode="round", max_steps=STEPS, auto_promote=False))
        versions.append(_promoted(tempo, job.result["adapter"]))
        if len(versions) > 1 and versions[-1].report["probe"]["effect"] >= EFFECT:
            return versions
    raise RuntimeError(f"after {MAX_VERSIONS} versions the effect is still below {EFFECT} nats")


def _promoted(tempo: Tempo, name: str) -> Adapter:
    """Promote a version despite the gate; return it once it has passed its probe and serves."""
    tempo.adapters.promote(name, force=True, reason="smoke test")
    adapter = _probed(tempo, name)
    console.print(f"  {name}: the probe {adapter.report['probe']['reason']}")
    if tempo.status().serving_adapter != name:
        raise RuntimeError(f"{name} does not serve: {adapter.report}")
    return adapter


def _refused(tempo: Tempo, root: Path, impostor: Impostor) -> dict[str, Any]:
    """Publish and promote an impostor; return its probe's figures; let the right one serve."""
    name = publish(impostor, root)
    with suppress(ConflictError):  # the probe may refuse it before the promotion is answered
        tempo.adapters.promote(name, reason="smoke test: an impostor")
    probe: dict[str, Any] = _probed(tempo, name).report["probe"]
    tempo.adapters.rollback(impostor.probe, reason="smoke test")
    console.print(f"  {name}: the probe {probe['verdict']}: {probe['reason']}")
    return probe


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


def _figures(probe: dict[str, Any]) -> dict[str, Any]:
    return {key: probe[key] for key in FIGURES}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smollm2", help="smollm2, or a model's directory")
    parser.add_argument("--data-dir", type=Path, help="default: a new temporary directory")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
