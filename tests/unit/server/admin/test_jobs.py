"""The jobs' routes: a job is queued in the ledger, at most one of each mode."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from ledgers import iteration

from tempo_storage import ledger

JOBS = "/tempo/v1/fine_tuning/jobs"


@pytest.fixture
def file_id(admin: Any, labeled: bytes) -> str:
    return str(admin.upload(labeled).json()["id"])


def create(admin: Any, mode: str = "round", **body: Any) -> Any:
    return admin("POST", JOBS, json={"tempo": {"mode": mode}} | body)


def test_a_job_is_queued_in_the_ledger_though_valkey_is_down(admin: Any, file_id: str) -> None:
    options = {"mode": "round", "max_steps": 3, "auto_promote": False}
    reply = admin("POST", JOBS, json={"model": "tempo", "training_file": file_id, "tempo": options})
    assert reply.status_code == 200
    body = reply.json()
    assert (body["object"], body["status"], body["model"]) == (
        "fine_tuning.job",
        "queued",
        "tiny-reasoner",
    )
    assert body["training_file"] == file_id
    with admin.context.sessions.begin() as s:
        row = ledger.jobs.get(s, body["id"])
    assert (row.mode, row.status) == ("round", "queued")
    assert row.settings == {"max_steps": 3, "auto_promote": False, "training_file": file_id}
    assert admin("GET", f"{JOBS}/{body['id']}").json() == body
    assert admin("GET", JOBS).json()["data"] == [body]


def test_a_second_job_of_the_same_mode_is_refused(admin: Any, file_id: str) -> None:
    assert create(admin).status_code == 200
    assert create(admin, "recalibrate").status_code == 200
    reply = create(admin)
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "job_already_running"
    assert reply.headers["x-should-retry"] == "false"


def test_of_four_requests_for_a_job_at_once_one_is_queued(admin: Any, file_id: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: create(admin).status_code, range(4)))
    assert sorted(replies) == [200, 409, 409, 409]


def test_without_labeled_questions_a_job_is_refused_with_the_remedy(admin: Any) -> None:
    reply = create(admin, "recalibrate")
    assert reply.status_code == 400
    assert "upload a file first" in reply.json()["error"]["message"]


def test_unknown_files_models_modes_and_fields_are_refused(admin: Any, file_id: str) -> None:
    assert create(admin, training_file="file-none").status_code == 404
    assert create(admin, model="gpt-5").status_code == 404
    assert create(admin, "pretrain").json()["error"]["param"] == "tempo.mode"
    reply = create(admin, seed=7)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "seed")
    assert admin("GET", JOBS).json()["data"] == []


@pytest.mark.parametrize(
    "number", ["0", "-1", "100001", str(2**63), str(10**400), "1e400", "NaN", "1.5", '"x"', "[]"]
)
def test_a_number_of_steps_out_of_bounds_is_refused_and_named(
    admin: Any, file_id: str, number: str
) -> None:
    body = f'{{"tempo": {{"max_steps": {number}}}}}'
    reply = admin("POST", JOBS, content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tempo.max_steps")
    assert len(reply.text) < 400
    assert admin("GET", JOBS).json()["data"] == []


def test_a_body_that_is_no_json_or_no_database_takes_is_refused(admin: Any) -> None:
    headers = {"content-type": "application/json"}
    reply = admin("POST", JOBS, content=b"{", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")
    for character in (b"\\ud800", b"\\u0000"):
        reply = admin("POST", JOBS, content=b'{"model": "%s"}' % character, headers=headers)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")


def test_cancelling_a_job_twice_changes_it_once(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    for _ in range(2):
        reply = admin("POST", f"{JOBS}/{job_id}/cancel")
        assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    types = [e["type"] for e in admin("GET", f"{JOBS}/{job_id}/events").json()["data"]]
    assert types == ["job.cancelled", "job.queued"]
    assert create(admin).status_code == 200


def test_a_job_that_has_ended_cannot_be_cancelled(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    with admin.context.sessions.begin() as s:
        ledger.jobs.finish(s, job_id, "failed", error="out of memory")
    assert admin("POST", f"{JOBS}/{job_id}/cancel").status_code == 409
    error = admin("GET", f"{JOBS}/{job_id}").json()["error"]
    assert error == {"code": "job_failed", "message": "out of memory", "param": None}


def test_a_job_names_the_adapter_that_it_made(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    admin.publish(4)
    with admin.context.sessions.begin() as s:
        ledger.versions.adapter(s, 4).job_id = job_id
    assert admin("GET", f"{JOBS}/{job_id}").json()["fine_tuned_model"] == "tempo-v4"


def test_a_job_s_model_is_the_name_under_which_vllm_serves_the_base(
    admin: Any, file_id: str
) -> None:
    names = ("tiny", "small")
    admin.app.state.tempo = replace(admin.context, served_names=names)
    for model in (*names, admin.context.base, "tempo"):
        job = create(admin, model=model).json()
        assert job["model"] == "tiny"
        admin("POST", f"{JOBS}/{job['id']}/cancel")


def test_a_parameter_that_decides_nothing_is_named_in_the_answer(admin: Any, file_id: str) -> None:
    assert create(admin).json()["tempo"]["ignored"] == []
    job = create(admin, "recalibrate", training_file=file_id).json()
    assert job["tempo"]["ignored"] == ["training_file"]


def test_a_paused_job_waits_and_shows_so_until_it_is_resumed(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    for _ in range(2):
        reply = admin("POST", f"{JOBS}/{job_id}/pause")
        assert (reply.status_code, reply.json()["status"]) == (200, "paused")
    assert admin("GET", JOBS).json()["data"][0]["status"] == "paused"
    with admin.context.sessions() as s:
        assert ledger.jobs.runnable(s) == []
        assert job_id in ledger.training.get(s).reason
    for _ in range(2):
        reply = admin("POST", f"{JOBS}/{job_id}/resume")
        assert (reply.status_code, reply.json()["status"]) == (200, "queued")
    with admin.context.sessions() as s:
        assert [job.id for job in ledger.jobs.runnable(s)] == [job_id]


def test_a_running_job_is_running_until_the_worker_has_stopped_it(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    with admin.context.sessions.begin() as s:
        ledger.jobs.get(s, job_id).status = "running"
    assert admin("POST", f"{JOBS}/{job_id}/pause").json()["status"] == "running"
    assert admin("GET", "/tempo/v1/status").json()["paused"] is True


def test_a_pause_that_would_stop_another_job_is_refused(admin: Any, file_id: str) -> None:
    running = create(admin).json()["id"]
    waiting = create(admin, "recalibrate").json()["id"]
    with admin.context.sessions.begin() as s:
        ledger.jobs.get(s, running).status = "running"
    reply = admin("POST", f"{JOBS}/{waiting}/pause")
    assert (reply.status_code, running in reply.json()["error"]["message"]) == (409, True)
    assert admin("GET", "/tempo/v1/status").json()["paused"] is False


@pytest.mark.parametrize(("mode", "status"), [("round", "succeeded"), ("check", "queued")])
def test_a_job_that_has_ended_and_a_check_are_not_paused(
    admin: Any, mode: str, status: str
) -> None:
    with admin.context.sessions.begin() as s:
        ledger.jobs.create(s, "j", mode, {}).status = status
    for verb in ("pause", "resume"):
        assert admin("POST", f"{JOBS}/j/{verb}").status_code == 409
        assert admin("POST", f"{JOBS}/none/{verb}").status_code == 404


def test_checkpoints_are_iterations_with_their_metrics_newest_first(
    admin: Any, file_id: str
) -> None:
    job_id = create(admin).json()["id"]
    with admin.context.sessions.begin() as s:
        for position in range(-1, 3):  # -1 is a part of the warm-up, which is no checkpoint
            metrics = {"critic_auroc": position / 10, "loss": float("nan")}
            s.add(iteration(job_id, position, metrics=metrics))
    admin.publish(4)
    with admin.context.sessions.begin() as s:
        version = ledger.versions.adapter(s, 4)
        version.job_id = job_id
        version.checkpoint = f"{job_id}-2"
    body = admin("GET", f"{JOBS}/{job_id}/checkpoints", params={"limit": 2}).json()
    newest, older = body["data"]
    assert body["has_more"] is True
    assert newest["metrics"] == {"critic_auroc": 0.2, "loss": None, "step": 2}
    assert (newest["step_number"], newest["fine_tuned_model_checkpoint"]) == (2, "tempo-v4")
    assert (older["step_number"], older["fine_tuned_model_checkpoint"]) == (1, f"{job_id}-1")
    rest = admin("GET", f"{JOBS}/{job_id}/checkpoints", params={"after": older["id"]}).json()
    assert [checkpoint["step_number"] for checkpoint in rest["data"]] == [0]
    assert admin("GET", f"{JOBS}/none/checkpoints").status_code == 404


def test_events_are_listed_newest_first_page_by_page(admin: Any, file_id: str) -> None:
    job_id = create(admin).json()["id"]
    with admin.context.sessions.begin() as s:
        for n in range(4):
            ledger.events.add(s, "iteration", f"iteration {n}", job_id=job_id)
        ledger.events.add(s, "iteration", "another job's", job_id="other")
    path = f"{JOBS}/{job_id}/events"
    first = admin("GET", path, params={"limit": 3}).json()
    rest = admin("GET", path, params={"after": first["data"][-1]["id"]}).json()
    messages = [e["message"] for e in first["data"] + rest["data"]]
    assert messages == [*(f"iteration {n}" for n in (3, 2, 1, 0)), "round is queued"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert admin("GET", path, params={"after": "x"}).status_code == 400
    assert admin("GET", f"{JOBS}/none/events").status_code == 404


def test_a_queued_job_says_what_it_waits_for(admin: Any, file_id: str) -> None:
    def waits(job: dict[str, Any]) -> str:
        return str(admin("GET", f"{JOBS}/{job['id']}").json()["tempo"]["progress"]["waits_for"])

    first = create(admin, "recalibrate").json()
    assert waits(first) == "no worker runs; `tempo doctor` says more"
    second = create(admin).json()
    assert waits(second) == f"{first['id']} (recalibrate) comes first"
    with admin.context.sessions.begin() as s:
        ledger.leases.acquire(s, "worker", 60)
        ledger.jobs.get(s, first["id"]).status = "running"
    assert waits(second) == f"{first['id']} (recalibrate) runs"
    with admin.context.sessions.begin() as s:
        ledger.jobs.finish(s, first["id"], "succeeded")
    assert waits(second) == ""
    admin("POST", "/tempo/v1/training/pause", json={"reason": "the night"})
    assert waits(second) == "training is paused (the night); `tempo resume` lets it go on"
