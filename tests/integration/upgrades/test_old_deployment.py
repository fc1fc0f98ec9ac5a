"""The data directory of commit 389b244 on real parts, started by that commit's module names."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from old_data import BASE, LAST_STEP, PROCESS, QUEUED
from processes import with_python_path
from rounds import finished
from servers import Server
from traffic import answering_version

from tempo_client import PermissionDeniedError, Tempo
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service]

# The adapters of the old directory have these sizes.
SIZES = {"TEMPO_LORA_RANK": "1", "TEMPO_CRITIC_RANK": "1", "TEMPO_LORA_ALPHA": "2"}


@pytest.fixture
def server(old: Path, serve: Any) -> Iterator[Server]:
    """The old deployment, with its operator's own verifier; its manifests name the base `base`."""
    data_dir = old / "data"
    migrated = subprocess.run(
        [sys.executable, "-m", "tempo_storage.migrations"],
        env={"TEMPO_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ": applied m004" in migrated.stdout
    env = with_python_path(old / "installed") | SIZES
    options = {"env": env, "worker_env": env, "cwd": old, "module": "tempo_server.launcher"}
    with serve(Path(BASE), data_dir, **options) as running:
        yield running


def test_an_old_deployment_answers_with_its_promoted_version_and_runs_its_queued_job(
    server: Server, old: Path, tempo: Tempo
) -> None:
    assert answering_version(server) == "tempo-v4"
    status = tempo.status()
    assert (status.serving_adapter, status.paused) == ("tempo-v4", False)
    probe = tempo.adapters.retrieve("tempo-v4").report["probe"]
    assert probe["verdict"] == "passed", probe
    assert probe["process"] != PROCESS  # this server probed it again
    reader = (old / "reader.key").read_text().strip()
    with Tempo(base_url=server.base_url, api_key=reader) as client:
        assert client.status().serving_adapter == "tempo-v4"
        with pytest.raises(PermissionDeniedError):
            client.training.pause()

    job = tempo.jobs.retrieve(QUEUED)
    assert job.status == "queued"
    with server.worker():
        job = finished(tempo, job)
    assert job.status == "succeeded", job.error
    assert job.result["adapter"] == "tempo-v5"
    with server.sessions() as s:
        (step,) = ledger.jobs.iterations(s, QUEUED)
        assert (step.position, step.parent) == (1, LAST_STEP)
