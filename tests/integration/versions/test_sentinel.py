"""The gate rejects a version below the base; once forced, the sentinel rolls it back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import install, with_python_path
from rounds import finished
from traffic import answering_version, ask
from waiting import eventually

from tempo_client import Tempo, UnprocessableEntityError
from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_of
from tempo_storage.ledger.models import Job

pytestmark = [pytest.mark.service, pytest.mark.vllm, pytest.mark.slow]

SPLIT = countdown.split(11, labeled=120, unlabeled=12, unseen=0)
# After one step of this size the policy speaks noise. The gate is the product's own.
NOISE = {
    "TEMPO_POLICY_LEARNING_RATE": "0.5",
    "TEMPO_MAX_RESPONSE_TOKENS": "48",
    "TEMPO_RECALIBRATE_AUROC": "0",
    "INJECT_ANY_CANDIDATE": "",
}
WATCHFUL = NOISE | {"TEMPO_SENTINEL_SECONDS": "1", "TEMPO_SENTINEL_CHECKS": "2"}


# An operator's own verifier, as a package would install it. It asks for the form of a solution:
# the small model knows that form though it cannot calculate, and noise does not have it.
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
    entry_points = "[tempo.verifiers]\nshape = shape:Shape\n"
    install(tmp_path / "installed", "shape", VERIFIER, entry_points=entry_points)
    env = with_python_path(tmp_path / "installed")
    (tmp_path / "data").mkdir()
    with serve(tiny_base, tmp_path / "data", env=env, worker_env=env) as running:
        yield running


def checks(server: Any, version: int) -> list[dict[str, Any]]:
    """Return the results of the checks of a version."""
    with server.sessions() as s:
        jobs = s.query(Job).filter_by(mode="check", status="succeeded").all()
    return [job.result for job in jobs if job.result.get("version") == version]


@pytest.mark.fault(
    20, "an operator forces a bad version through", promise="the sentinel rolls it back"
)
def test_the_gate_rejects_noise_and_the_sentinel_rolls_it_back_once_it_is_forced(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    tempo.files.create(
        {"question": puzzle.question, "answer": "any", "verifier": "shape"}
        for puzzle in SPLIT.labeled
    )
    for puzzle in SPLIT.unlabeled:
        ask(server, puzzle.question, max_tokens=48)  # the gate and the sentinel keep to this limit
    with worker(**NOISE):
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
    assert job.status == "succeeded", job.error
    assert job.result["decision"] == "rejected", job.result
    noise = job.result["adapter"]
    report = job.result["gate"]
    assert report["accuracy"]["candidate"]["users"] < 0.02 < report["accuracy"]["base"]["users"]
    assert report["questions"] >= 32
    assert report["reason"].startswith("no gain: -")
    with pytest.raises(UnprocessableEntityError):
        tempo.adapters.promote(noise)
    assert tempo.status().serving_adapter == "tempo-v0"

    tempo.adapters.promote(noise, force=True, reason="a test of the sentinel")
    assert tempo.adapters.retrieve(noise).report["forced"] == "a test of the sentinel"
    assert answering_version(server) == noise
    tempo.training.pause(reason="no pause stops a check")
    with worker(**WATCHFUL):
        eventually(lambda: tempo.status().serving_adapter == "tempo-v0", seconds=120)
        assert len(checks(server, version_of(noise))) == 2
    status = tempo.status()
    assert status.paused
    assert status.last_error is not None
    assert status.last_error.type == "sentinel.rolled_back"
    assert tempo.adapters.retrieve(noise).status == "rejected"
    tempo.training.resume()
