"""OpenAI's official client against the real routes."""

from typing import Any

import openai
import pytest
from ledgers import iteration

from tempo_storage import ledger


def test_openai_s_official_client_drives_files_and_jobs(
    admin: Any, address: str, labeled: bytes
) -> None:
    with openai.OpenAI(base_url=f"{address}/tempo/v1", api_key=admin.key) as client:
        file = client.files.create(file=("labeled.jsonl", labeled), purpose="fine-tune")
        assert (file.status, file.filename, file.bytes) == (
            "processed",
            "labeled.jsonl",
            len(labeled),
        )
        assert file.model_extra is not None
        assert file.model_extra["tempo"]["examples"] == 12
        assert [f.id for f in client.files.list()] == [file.id]
        assert client.files.retrieve(file.id).id == file.id
        assert client.files.content(file.id, extra_query={"held_out": "true"}).read() == labeled
        job = client.fine_tuning.jobs.create(
            model="tempo", training_file=file.id, extra_body={"tempo": {"mode": "recalibrate"}}
        )
        assert (job.status, job.training_file, job.trained_tokens) == ("queued", file.id, None)
        with admin.context.sessions.begin() as s:
            for n in range(44):
                ledger.events.add(s, "step", f"step {n}", job_id=job.id)
        events = client.fine_tuning.jobs.list_events(job.id, limit=20)
        assert [e.message for e in events][:-1] == [f"step {n}" for n in range(44)][::-1]
        with pytest.raises(openai.ConflictError) as raised:
            client.fine_tuning.jobs.create(
                model="tempo", training_file=file.id, extra_body={"tempo": {"mode": "recalibrate"}}
            )
        assert raised.value.code == "job_already_running"
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert [j.id for j in client.fine_tuning.jobs.list()] == [job.id]
        with pytest.raises(openai.NotFoundError) as missing:
            client.fine_tuning.jobs.retrieve("ftjob-none")
        assert missing.value.request_id
        with pytest.raises(openai.BadRequestError) as bad:
            client.files.create(file=("x.jsonl", b"{}\n"), purpose="fine-tune")
        assert bad.value.code == "line_errors"


def test_openai_s_official_client_pauses_jobs_and_reads_checkpoints(
    admin: Any, address: str, labeled: bytes
) -> None:
    with openai.OpenAI(base_url=f"{address}/tempo/v1", api_key=admin.key) as client:
        file = client.files.create(file=("labeled.jsonl", labeled), purpose="fine-tune")
        jobs = client.fine_tuning.jobs
        job = jobs.create(model="tempo", training_file=file.id)
        assert jobs.pause(job.id).status == "paused"
        assert jobs.resume(job.id).status == "queued"
        with admin.context.sessions.begin() as s:
            s.add_all([iteration(job.id, n, metrics={"loss": n / 2}) for n in range(12)])
        checkpoints = list(jobs.checkpoints.list(job.id, limit=5))
        assert [checkpoint.step_number for checkpoint in checkpoints] == [*range(12)][::-1]
        assert checkpoints[0].metrics.step == 11
        assert checkpoints[0].metrics.model_extra == {"loss": 5.5}


def test_openai_s_official_client_shows_and_deletes_versions(admin: Any, address: str) -> None:
    admin.publish(1)
    with openai.OpenAI(base_url=f"{address}/tempo/v1", api_key=admin.key) as client:
        assert [model.id for model in client.models.list()] == ["tempo-v1", "tempo-v0"]
        assert client.models.retrieve("tempo-v1").owned_by == "vllm-tempo"
        assert client.models.delete("tempo-v1").deleted
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("tempo-v1")
        with pytest.raises(openai.ConflictError):
            client.models.delete("tempo-v0")


def test_openai_s_official_client_tries_graders(admin: Any, address: str) -> None:
    check: Any = {"type": "string_check", "name": "equal", "operation": "ilike"} | {
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
    }
    exact: Any = {"type": "verifier", "verifier": "exact", "reference": ["{{item.answer}}"]}
    with openai.OpenAI(base_url=f"{address}/tempo/v1", api_key=admin.key) as client:
        graders = client.fine_tuning.alpha.graders
        validated = graders.validate(grader=check).grader
        assert validated is not None
        assert validated.type == "string_check"
        for grader, sample, reward in ((check, "PARIS!", 1.0), (exact, "Rome", 0.0)):
            run = graders.run(grader=grader, model_sample=sample, item={"answer": "Paris"})
            assert (run.reward, run.metadata.errors.other_error) == (reward, False)
        with pytest.raises(openai.BadRequestError, match="it runs code"):
            graders.run(grader={"type": "python", "name": "p", "source": ""}, model_sample="x")
