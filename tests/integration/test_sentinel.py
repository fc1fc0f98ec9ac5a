"""A version that is worse than the base: kept out by the gate, and by the sentinel once forced."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small import finished
from traffic import ask, eventually

from tempo_client import Tempo, UnprocessableEntityError
from tempo_lab.tasks import countdown
from tempo_storage.ledger.models import Job as JobRow

pytestmark = [pytest.mark.service, pytest.mark.vllm, pytest.mark.slow]

SPLIT = countdown.split(11, labeled=120, unlabeled=12, unseen=0)
# One step of this size and the policy speaks noise.
NOISE = {
    "TEMPO_POLICY_LEARNING_RATE": "0.5",
    "TEMPO_MAX_RESPONSE_TOKENS": "48",
    "TEMPO_GATE_DELTA": "0.02",
    "TEMPO_RECALIBRATE_AUROC": "0",
}
WATCHFUL = NOISE | {"TEMPO_SENTINEL_SECONDS": "1", "TEMPO_SENTINEL_CHECKS": "2"}


# A verifier as operators install them: the small model knows how a solution looks, not how it is
# found, and noise knows neither.
VERIFIER = """
import re
from tempo_trainer.sampling.verifiers import Verdict

class Shape:
    name = "shape"

    def check_reference(self, reference):
        return None

    def verify(self, response, reference, metadata):
        text = " ".join(response.split())
        return Verdict(correct=re.match(r"\\d+ . \\d+ = \\d+ ; \\d+ . \\d+ =", text) is not None)
"""


@pytest.fixture
def server(tiny_base: Path, tmp_path: Path, serve: Any) -> Iterator[Any]:
    """A server, and workers, in whose environment the verifier is installed."""
    installed = tmp_path / "installed"
    (installed / "shape-1.dist-info").mkdir(parents=True)
    (installed / "shape.py").write_text(VERIFIER)
    (installed / "shape-1.dist-info" / "METADATA").write_text("Name: shape\nVersion: 1\n")
    entry = "[tempo.verifiers]\nshape = shape:Shape\n"
    (installed / "shape-1.dist-info" / "entry_points.txt").write_text(entry)
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(paths)}
    (tmp_path / "data").mkdir()
    with serve(tiny_base, tmp_path / "data", env=env, worker_env=env) as running:
        yield running


@pytest.fixture
def tempo(server: Any) -> Iterator[Tempo]:
    with Tempo(base_url=server.base_url, api_key=server.admin_key) as client:
        yield client


def checks(server: Any, version: int) -> list[dict[str, Any]]:
    with server.sessions() as s:
        done = s.query(JobRow).filter_by(mode="check", status="succeeded").all()
    return [job.result for job in done if job.result.get("version") == version]


@pytest.mark.fault(20, "a bad version is promoted by force", promise="the sentinel rolls it back")
def test_noise_is_refused_by_the_gate_and_once_forced_rolled_back_by_the_sentinel(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    tempo.files.create(
        {"question": puzzle.question, "answer": "any", "verifier": "shape"}
        for puzzle in SPLIT.labeled
    )
    for puzzle in SPLIT.unlabeled:
        ask(server, puzzle.question)
    with worker(**NOISE):
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
    assert job.status == "succeeded", job.error
    assert job.result["decision"] == "rejected", job.result
    noise = job.result["adapter"]
    assert job.result["gate"]["samples"]["candidate"]["avg_at_k"] < 0.02
    with pytest.raises(UnprocessableEntityError):
        tempo.adapters.promote(noise)
    assert tempo.status().serving_adapter == "tempo-v0"

    tempo.adapters.promote(noise, force=True, reason="a test of the sentinel")
    assert tempo.adapters.retrieve(noise).report["forced"] == "a test of the sentinel"
    answer = server.client.chat.completions.with_raw_response.create(
        model="tempo", messages=[{"role": "user", "content": "?"}], max_tokens=4
    )
    assert answer.headers["x-tempo-adapter"] == noise
    tempo.training.pause(reason="no pause stops a check")
    recorded = str(server.data_dir / "rollouts")  # a check is never answered from there
    with worker(**WATCHFUL, TEMPO_ROLLOUTS_DIR=recorded):
        eventually(lambda: tempo.status().serving_adapter == "tempo-v0", seconds=120)
        assert len(checks(server, int(noise.removeprefix("tempo-v")))) == 2
    status = tempo.status()
    assert status.paused
    assert status.last_error is not None
    assert status.last_error.type == "sentinel.rolled_back"
    assert tempo.adapters.retrieve(noise).status == "rejected"
    tempo.training.resume()
