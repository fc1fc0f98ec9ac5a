"""The operations of the SDK on a fake server: requests, lists, waiting, parsed resources."""

import json
from collections.abc import Callable

import httpx
import pytest
from fake_api import JOBS, client

import tempo_client
from tempo_client.types import File, Key, Status

JOB = {"id": "j", "status": "queued", "created_at": 1}


def test_requests_carry_the_key_and_are_json_or_multipart() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        body = JOB if "jobs" in request.url.path else {"bytes": 1, "filename": "x"} | JOB
        return httpx.Response(200, json=body)

    with client(answer) as tempo:
        tempo.jobs.create("recalibrate", training_file="file-1", max_steps=5, auto_promote=False)
        tempo.files.create([{"question": "é"}])
    job, file = requests
    assert job.headers["authorization"] == "Bearer tk_x"
    assert job.url == "http://tempo/tempo/v1/fine_tuning/jobs"
    assert json.loads(job.content) == {
        "training_file": "file-1",
        "tempo": {"mode": "recalibrate", "max_steps": 5, "auto_promote": False},
    }
    assert file.headers["content-type"].startswith("multipart/form-data")
    assert '{"question": "é"}\n'.encode() in file.content


def test_only_calls_that_may_be_repeated_are_repeated() -> None:
    counts: dict[str, int] = {}

    def refuse(request: httpx.Request) -> httpx.Response:
        name = f"{request.url.path.removeprefix('/tempo/v1')} {request.content.decode()}"
        counts[name] = counts.get(name, 0) + 1
        return httpx.Response(503, headers={"retry-after": "0.001"})

    with client(refuse) as tempo:
        calls: list[tuple[Callable[[], object], int]] = [
            (tempo.status, 3),
            (tempo.jobs.create, 1),
            (lambda: tempo.jobs.cancel("j"), 3),
            (lambda: tempo.adapters.promote("tempo-v1"), 3),
            (lambda: tempo.adapters.promote("tempo-v1", expected_current="tempo-v0"), 1),
            (tempo.adapters.rollback, 1),
            (lambda: tempo.adapters.rollback("tempo-v0"), 3),
            (tempo.training.pause, 3),
            (lambda: tempo.keys.create("ci"), 1),
            (lambda: tempo.keys.delete("0a"), 3),
        ]
        for call, _ in calls:
            with pytest.raises(tempo_client.InternalServerError):
                call()
    assert list(counts.values()) == [times for _, times in calls]


def test_lists_are_read_to_their_end() -> None:
    def two_of_six(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params.get("after", 0))
        items = [JOB | {"id": str(after + n)} for n in (1, 2)]
        return httpx.Response(200, json={"data": items, "has_more": after < 4})

    with client(two_of_six) as tempo:
        assert [job.id for job in tempo.jobs.list()] == ["1", "2", "3", "4", "5", "6"]


def test_wait_returns_a_job_that_succeeds_and_raises_for_one_that_fails() -> None:
    error = {"message": "out of memory"}
    statuses = ["queued", "running", "succeeded", "running", "failed"]
    states = [JOB | {"status": status, "error": error} for status in statuses]
    with client({f"GET {JOBS}/j": states}) as tempo:
        assert tempo.jobs.wait("j", poll_seconds=0.001).status == "succeeded"
        with pytest.raises(tempo_client.JobFailedError, match="failed: out of memory") as caught:
            tempo.jobs.wait("j", poll_seconds=0.001)
    assert states == []
    assert caught.value.job is not None
    assert caught.value.job.status == "failed"


def test_unknown_fields_are_kept_and_a_missing_one_is_named() -> None:
    body = {"object": "file", "id": "f", "bytes": 1, "created_at": 1, "filename": "x", "new": 2}
    file = File.parse(body | {"tempo": {"examples": 9, "newer": 3}})
    assert (file.examples, file.extra) == (9, {"new": 2, "newer": 3})
    tempo = client({f"GET {JOBS}/j": {"id": "j", "created_at": 1}})
    with tempo, pytest.raises(tempo_client.APIError, match=r"Job lacks a field.*status"):
        tempo.jobs.retrieve("j")


def test_a_new_key_can_be_logged_without_its_secret() -> None:
    key = Key.parse({"object": "key", "id": "0a", "name": "ci", "key": "tk_secret"})
    assert key.key == "tk_secret"
    assert "ci" in repr(key)
    assert "tk_secret" not in repr(key)


def test_nested_objects_are_parsed() -> None:
    event = {"id": "e", "created_at": 1, "level": "error", "type": "t", "message": "m"}
    process = {"id": "p", "version": 1, "sequence": 2}
    body = {"model": "m", "serving_adapter": "tempo-v1", "questions": {"captured": 5}}
    status = Status.parse(body | {"last_error": event, "processes": [process]})
    assert status.questions.captured == 5
    assert status.last_error is not None
    assert status.last_error.message == "m"
    assert status.processes[0].sequence == 2
    assert Status.parse(body | {"last_error": None}).last_error is None
