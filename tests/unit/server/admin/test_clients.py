"""Our SDK against the real routes."""

import asyncio
import contextlib
import inspect
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from ledgers import iteration

import tempo_client
from tempo_client import AsyncTempo, Tempo, types
from tempo_storage import ledger
from tempo_storage.decoding import Decoding
from tempo_storage.ledger.models import JobResult
from tempo_trainer.sampling.server import served_model
from tempo_trainer.worker_settings import WorkerSettings

V1 = "/tempo/v1"
# Arguments of the SDK's methods; all others are "x".
ARGUMENTS: dict[str, Any] = {"labeled": b"{}", "responses": {}}
# Fields that only OpenAI's client reads.
FOR_OPENAI_ONLY = {
    "hyperparameters",
    "organization_id",
    "result_files",
    "seed",
    "trained_tokens",
    "validation_file",
}
# Routes that only OpenAI's client uses.
ROUTES_FOR_OPENAI_ONLY = {
    ("GET", f"{V1}/files/x/content"),
    ("GET", f"{V1}/models"),
    ("GET", f"{V1}/models/x"),
    ("POST", f"{V1}/fine_tuning/alpha/graders/run"),
    ("POST", f"{V1}/fine_tuning/alpha/graders/validate"),
}


@pytest.fixture
def tempo(admin: Any, address: str) -> Any:
    with Tempo(address, api_key=admin.key) as client:
        yield client


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in inspect.getmembers(types, inspect.isclass)
        if issubclass(kind, types.Resource) and kind is not types.Resource
    ],
)
def test_the_sdk_has_every_field_of_the_api_and_no_other(admin: Any, name: str) -> None:
    schemas = admin.app.openapi()["components"]["schemas"]
    properties = schemas[f"Tempo{name}"]["properties"]
    api_fields = set(properties) - {"object", "tempo"} - FOR_OPENAI_ONLY
    if "tempo" in properties:
        api_fields |= set(schemas[f"Tempo{name}Details"]["properties"])
    assert api_fields == {f.name for f in fields(getattr(types, name))} - {"extra"}


def test_every_route_has_a_method_of_the_sdk_and_every_method_has_its_route(admin: Any) -> None:
    requests: set[tuple[str, str]] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        requests.add((request.method, request.url.path))
        return httpx.Response(200, json={"data": [], "has_more": False})

    with Tempo("http://tempo", api_key="k", transport=httpx.MockTransport(answer)) as tempo:
        groups = (
            tempo.audit,
            tempo.files,
            tempo.labels,
            tempo.jobs,
            tempo.adapters,
            tempo.questions,
        )
        for group in (tempo, *groups, tempo.keys, tempo.training):
            for _, method in inspect.getmembers(group, inspect.isfunction):
                parameters = inspect.signature(method).parameters.values()
                names = [p.name for p in parameters if p.default is p.empty]
                with contextlib.suppress(tempo_client.APIError):  # the answer is often no such one
                    method(*(ARGUMENTS.get(name, "x") for name in names))
    paths = {path: routes for path, routes in admin.app.openapi()["paths"].items() if V1 in path}
    api = {(m.upper(), re.sub(r"\{\w+\}", "x", path)) for path in paths for m in paths[path]}
    assert api == requests | ROUTES_FOR_OPENAI_ONLY


def test_the_trainer_reads_the_model_and_its_sampling_from_the_status(
    admin: Any, address: str
) -> None:
    decoding = Decoding(temperature=0.6, top_p=0.95, top_k=20, max_tokens=64)
    admin.app.state.tempo = replace(admin.context, default_decoding=decoding)
    settings = WorkerSettings(base_url=address)
    assert served_model(settings, admin.key) == (admin.context.base, decoding)


def test_the_sdk_knows_every_field_that_the_server_returns(
    admin: Any, tempo: Tempo, labeled: bytes
) -> None:
    admin.publish(1)
    file = tempo.files.create(labeled)
    job = tempo.jobs.create("round", max_steps=2)
    key = tempo.keys.create("ci", scopes=["train"])
    label = tempo.labels.list()[0]
    resources: list[types.Resource] = [
        file,
        tempo.files.retrieve(file.id),
        *tempo.jobs.events(job.id),
        *tempo.adapters.list(),
        tempo.adapters.retrieve("tempo-v1"),
        tempo.questions.learned("1+1"),
        tempo.questions.erase("0" * 16),
        key,
        *tempo.keys.list(),
        tempo.keys.rotate(key.id, grace_seconds=60),
        tempo.keys.delete(key.id),
        *tempo.audit.list(limit=3),
        tempo.status(),
        tempo.labels.replace(label.id, "b"),
        tempo.labels.verify({label.id: ["b"]}),
        tempo.labels.remove(label.id),
        tempo.training.pause("x"),
        tempo.training.resume(new_tests=True),
    ]
    assert [r.extra for r in resources if r.extra] == []
    assert set(job.extra) <= FOR_OPENAI_ONLY
    assert (job.mode, job.settings["max_steps"]) == ("round", 2)
    assert [j.id for j in tempo.jobs.list()] == [job.id]
    assert tempo.jobs.pause(job.id).status == "paused"
    assert tempo.jobs.resume(job.id).status == "queued"
    assert tempo.jobs.cancel(job.id).status == "cancelled"


def test_the_sdk_reads_events_oldest_first_and_only_those_after_one(
    admin: Any, tempo: Tempo, labeled: bytes
) -> None:
    tempo.files.create(labeled)
    job = tempo.jobs.create()
    with admin.context.sessions.begin() as s:
        for n in range(130):
            ledger.events.add(s, "step", f"step {n}", job_id=job.id)
    events = tempo.jobs.events(job.id)
    steps = [f"step {n}" for n in range(130)]
    assert [event.message for event in events] == ["round is queued", *steps]
    assert [e.message for e in tempo.jobs.events(job.id, after=events[120].id)] == steps[120:]
    assert tempo.jobs.events(job.id, after=events[-1].id) == []


def test_the_sdk_reads_checkpoints_and_deletes_a_version(
    admin: Any, tempo: Tempo, labeled: bytes
) -> None:
    tempo.files.create(labeled)
    job = tempo.jobs.create()
    with admin.context.sessions.begin() as s:
        s.add_all([iteration(job.id, n, metrics={"critic_auroc": 0.7}) for n in (0, 1)])
    checkpoints = tempo.jobs.checkpoints(job.id)
    assert [(c.step_number, c.metrics["critic_auroc"]) for c in checkpoints] == [(1, 0.7), (0, 0.7)]
    admin.publish(1)
    assert tempo.adapters.delete("tempo-v1").deleted
    with pytest.raises(tempo_client.ConflictError):
        tempo.adapters.delete("tempo-v0")


def test_the_sdk_promotes_and_rolls_back(admin: Any, tempo: Tempo) -> None:
    admin.publish(1)
    admin.publish(2, "rejected")
    assert tempo.adapters.promote("tempo-v1", expected_current="tempo-v0").status == "serving"
    with pytest.raises(tempo_client.UnprocessableEntityError):
        tempo.adapters.promote("tempo-v2")
    with pytest.raises(tempo_client.ConflictError):
        tempo.adapters.promote("tempo-v1", expected_current="tempo-v0")
    assert tempo.adapters.rollback().id == "tempo-v0"
    assert tempo.adapters.retrieve("tempo-v1").status == "retired"
    assert tempo.status().serving_adapter == "tempo-v0"


def test_the_sdk_creates_a_key_that_only_reads_and_revokes_it(address: str, tempo: Tempo) -> None:
    created = tempo.keys.create("grafana")
    assert [(key.name, key.key) for key in tempo.keys.list()] == [("grafana", ""), ("admin", "")]
    assert tempo.keys.list()[0].scopes == ["read"]
    with Tempo(address, api_key=created.key) as reader:
        assert reader.status().serving_adapter == "tempo-v0"
        with pytest.raises(tempo_client.PermissionDeniedError, match="scope 'train'"):
            reader.training.pause()
        assert tempo.keys.delete(created.id).id == created.id
        with pytest.raises(tempo_client.AuthenticationError):
            reader.status()


def test_the_sdk_s_dry_run_reports_and_stores_nothing(tempo: Tempo, labeled: bytes) -> None:
    report = tempo.files.create(labeled, dry_run=True)
    assert tempo.files.list() == []
    stored = tempo.files.create(labeled)
    assert (report.examples, report.held_out) == (12, stored.held_out)


def test_the_sdk_s_recalibrate_uploads_a_file_and_queues_a_job(
    admin: Any, tempo: Tempo, labeled: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(labeled)
    job = tempo.recalibrate(path, wait=False)
    assert (job.mode, job.status) == ("recalibrate", "queued")
    assert job.training_file == tempo.files.list()[0].id
    assert tempo.files.list()[0].filename == "questions.jsonl"
    with pytest.raises(tempo_client.JobTimeoutError, match="it goes on"):
        tempo.jobs.wait(job.id, timeout=0.05, poll_seconds=0.02)
    with admin.context.sessions.begin() as s:
        ledger.jobs.finish(s, job.id, "succeeded", result=JobResult(report={"auroc": 0.8}))
    assert tempo.jobs.wait(job.id).result == {"auroc": 0.8}


def test_the_sdk_s_error_has_the_bad_lines(tempo: Tempo) -> None:
    with pytest.raises(tempo_client.BadRequestError) as raised:
        tempo.files.create([{"question": "1+1"}, {"question": "2+2", "answer": "4"}])
    assert [(e["line"], e["code"]) for e in raised.value.line_errors] == [(1, "missing_reference")]
    assert raised.value.code == "line_errors"
    assert raised.value.request_id


def test_the_sdk_s_error_for_a_wrong_key_names_the_file_of_the_right_one(address: str) -> None:
    with (
        Tempo(address, api_key="tk_wrong") as client,
        pytest.raises(tempo_client.AuthenticationError, match=r"admin\.key"),
    ):
        client.status()


def test_the_asynchronous_sdk_does_the_same(admin: Any, address: str, labeled: bytes) -> None:
    async def use() -> None:
        async with AsyncTempo(address, api_key=admin.key) as client:
            examples = [json.loads(line) for line in labeled.splitlines()]
            job = await client.recalibrate(examples, wait=False)
            assert (await client.jobs.cancel(job.id)).status == "cancelled"
            with pytest.raises(tempo_client.JobFailedError, match="cancelled"):
                await client.jobs.wait(job.id)
            assert (await client.adapters.list())[-1].id == "tempo-v0"
            assert (await client.status()).labeled.train > 0
            key = await client.keys.create("ci", scopes=["promote"])
            assert (await client.keys.delete(key.id)).scopes == ["promote"]
            assert [key.name for key in await client.keys.list()] == ["admin"]

    asyncio.run(use())
