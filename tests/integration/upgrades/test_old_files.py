"""Adapters, checkpoints, keys and the queue of commit 389b244 are read by this code."""

import hashlib
from pathlib import Path

import pytest
from adapters import WEIGHTS
from asgi import send
from fastapi import FastAPI
from ledgers import opened
from old_data import BASE, LAST_STEP, QUEUED
from rq import Queue
from rq.serializers import JSONSerializer
from valkeys import embedded_valkey

from tempo_server import keys
from tempo_server.admin.router import router
from tempo_server.context import Context
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, version_name
from tempo_storage.valkey.doorbell import Listener, Refused
from tempo_storage.valkey.streams import QUEUE, QuestionStream, redis_client


def test_adapters_and_the_uploaded_file_are_what_the_ledger_says(old: Path) -> None:
    store = AdapterStore(old / "data" / "adapters")
    assert [name for name in store.names() if "-v" in name] == ["tempo-v2", "tempo-v3", "tempo-v4"]
    with opened(f"sqlite:///{old / 'data' / 'tempo.db'}") as sessions, sessions.begin() as s:
        ledger.published.adopt(s, store)
        for version in (2, 3, 4):
            files = ledger.published.files(s, version_name(version))
            directory = store.verify(version_name(version), files, base=BASE, rank=1)
            weights = (directory / "adapter_model.safetensors").read_bytes()
            digest = hashlib.sha256(weights).hexdigest()
            assert ledger.versions.adapter(s, version).sha256 == digest
        (file,) = ledger.labeled.files(s)
        content = (old / "data" / "files" / file.id).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256


def test_the_learner_restores_every_checkpoint_that_is_still_needed(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not at the top: the unit tests must import the trainer first, with its shapes checked.
    from tempo_trainer.algorithm.networks import Networks
    from tempo_trainer.learning import checkpoint
    from tempo_trainer.learning.learner import Learner
    from tempo_trainer.worker_settings import WorkerSettings

    monkeypatch.chdir(old)
    settings = WorkerSettings(
        data_dir=Path("data"), lora_rank=1, critic_rank=1, lora_alpha=2, device="cpu", threads=1
    )
    learner = Learner(Networks.load(BASE, settings), settings)
    with opened(settings.resolved_database_url) as sessions, sessions() as s:
        needed = ledger.jobs.needed_checkpoints(s)
    assert needed == checkpoint.names(settings.checkpoints_dir)
    for name in sorted(needed):
        learner.restore(name)
    learner.restore(LAST_STEP)
    assert (learner.e_steps, learner.m_steps) == (6, 4)
    (exported := old / "exported").mkdir()
    learner.networks.policy.export(exported)
    served = old / "data" / "adapters" / "tempo-v4"
    assert (exported / WEIGHTS).read_bytes() == (served / WEIGHTS).read_bytes()


# Jobs and keys -----------------------------------------------------------------------------------


@pytest.mark.service
def test_the_worker_takes_the_ring_that_waits_in_valkey_under_the_old_function_s_name(
    old: Path,
) -> None:
    with embedded_valkey(old / "data") as valkey:
        client = redis_client(valkey.url, timeout_seconds=5.0)
        (entry,) = Queue(QUEUE, connection=client, serializer=JSONSerializer).jobs
        assert (entry.func_name, entry.kwargs) == ("tempo_trainer.jobs.run_job", {"job_id": QUEUED})
        listener = Listener(client)
        assert listener.wait(60) == Refused()
        listener.close()


def test_the_old_keys_authenticate_and_none_has_gained_a_right(old: Path) -> None:
    settings = ServerSettings(data_dir=old / "data")
    client = redis_client("redis://127.0.0.1:1/0")
    app = FastAPI()
    app.include_router(router)
    with opened(settings.resolved_database_url) as sessions:
        store = AdapterStore(settings.adapters_dir)
        stream = QuestionStream(client)
        app.state.tempo = Context(settings, sessions, store, stream, client, BASE, 16)
        keys.ensure_admin_key(app.state.tempo)

        def status(method: str, path: str, key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return send(app, method, f"/tempo/v1/{path}", headers=headers).status_code

        admin = (old / "data" / "admin.key").read_text().strip()
        reader = (old / "reader.key").read_text().strip()
        assert (status("GET", "status", admin), status("GET", "status", reader)) == (200, 200)
        assert status("POST", "training/resume", reader) == 403
        assert status("POST", "training/resume", admin) == 200
        assert (status("GET", "labels", reader), status("GET", "keys", reader)) == (403, 403)
        assert (status("GET", "labels", admin), status("GET", "audit", admin)) == (200, 200)
    client.close()
