"""`watch`, `jobs show` and `jobs list` say how far a job is and what it waits for."""

from typing import Any

import pytest
from fake_api import JOBS, job, page, run

from tempo_client.cli import progress
from tempo_client.types import Job

SAMPLING = {"phase": "sampling", "iteration": 4, "of": 10, "done": 120, "total": 448}
SAMPLING_LINE = "iteration 4 of 10, sampling 120 of 448 responses"
PACE = {"rate": 12.5, "seconds_left": 200}


def running(**fields: Any) -> Job:
    return Job.parse(job("running", progress=fields))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (SAMPLING, SAMPLING_LINE),
        (SAMPLING | PACE, f"{SAMPLING_LINE}, 12.5/s, 3 min left"),
        (SAMPLING | {"seconds_left": 7200}, f"{SAMPLING_LINE}, 2.0 h left"),
        (SAMPLING | {"seconds_left": 12}, f"{SAMPLING_LINE}, 12 s left"),
        (SAMPLING | {"phase": "m_step", "activity": "learning"}, "iteration 4 of 10, learning"),
        (
            SAMPLING | {"phase": "e_step", "iteration": 3, "of": 20},
            "warm-up, E-step 3 of 20, sampling 120 of 448 responses",
        ),
        (SAMPLING | {"phase": "gating"}, "gate, sampling 120 of 448 responses"),
        ({"phase": "checking", "iteration": 8, "of": 64}, "check, question 8 of 64"),
        ({"phase": "loading"}, "loading the model"),
        ({"iteration": 1, "of": 2}, "running 1 of 2"),
        ({}, "running"),
    ],
)
def test_the_line_has_the_step_its_responses_the_pace_and_the_time_left(
    fields: dict[str, Any], line: str
) -> None:
    assert progress.line(running(**fields)) == line


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, 0),
        (SAMPLING | {"done": 224}, 0.35),
        (SAMPLING | {"phase": "gating", "done": 224}, 0.5),
        ({"phase": "checking", "iteration": 33, "of": 64}, 0.5),
    ],
)
def test_the_bar_shows_the_share_of_the_stage(fields: dict[str, Any], share: float) -> None:
    assert progress.share(running(**fields)) == share


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_job_that_has_ended_says_so(status: str) -> None:
    assert progress.line(Job.parse(job(status, progress=SAMPLING | PACE))) == status
    row = run("jobs", "list", answers={f"GET {JOBS}": page(job(status, progress=SAMPLING))}).stdout
    assert f"\t{status}\t" in row


def test_a_waiting_job_says_what_it_waits_for() -> None:
    waits = {"phase": "queued", "waits_for": "ftjob-9 (recalibrate) runs"}
    states = [job("queued", progress=waits), job("queued", progress=waits), job()]
    answers = {f"GET {JOBS}/ftjob-1": states, f"GET {JOBS}/ftjob-1/events": page()}
    result = run("watch", "ftjob-1", answers=answers)
    assert "round: queued, waits: ftjob-9 (recalibrate) runs\n" in result.stderr


def test_jobs_show_and_list_have_the_progress() -> None:
    state = job("running", progress=SAMPLING | PACE)
    shown = run("jobs", "show", "ftjob-1", answers={f"GET {JOBS}/ftjob-1": state}).stdout
    assert "progress\titeration 4 of 10, sampling 120 of 448 responses, 12.5/s, 3 min" in shown
    listed = run("jobs", "list", answers={f"GET {JOBS}": page(state)}).stdout
    assert listed.startswith("ftjob-1\tround\titeration 4 of 10, sampling 120 of 448 responses, ")


def test_without_a_terminal_a_line_comes_with_each_step_and_not_with_each_response() -> None:
    states = [job("running", progress=SAMPLING | {"done": n}) for n in (1, 2, 3)]
    states.append(job("running", progress=SAMPLING | {"iteration": 5}))
    answers = {f"GET {JOBS}/ftjob-1": [*states, job()], f"GET {JOBS}/ftjob-1/events": page()}
    lines = run("watch", "ftjob-1", answers=answers).stderr.splitlines()
    assert [line[:24] for line in lines if "sampling" in line] == [
        "round: iteration 4 of 10",
        "round: iteration 5 of 10",
    ]
