"""A round samples, learns and commits, lets the gate decide once, and stops where it must."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from learners import Parts
from ledgers import candidate, captured, held_out, iteration, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import JobResult
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs import rounds
from tempo_trainer.jobs.round_reports import warn_if_suspicious
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.versions.promotion import record_decision

SMALL = {"minimum_advantage_std": 0, "warm_up_steps": 2, "iterations_per_round": 2}
GAIN = {"tempo-v1": 0.8}  # share of right answers; that of the base is a half


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add(labeled("1 + 1"))
        s.add_all(held_out(f"2 + {n}", reference=[str(n)]) for n in range(64))
        ledger.pool.add(s, [captured("a", "3 + 3")])
    worker = Parts(sessions, tmp_path, **SMALL)
    worker.responses.skill = GAIN
    return worker


def events(parts: Parts, job: RunningJob) -> list[Any]:
    with parts.sessions() as s:
        return ledger.events.find(s, job_id=job.id)


def test_a_round_learns_commits_each_iteration_and_lets_the_gate_promote(parts: Parts) -> None:
    job = parts.job("a")
    result = parts.rounds.run(job)
    assert [(row.position, row.refined) for row in job.iterations()] == [
        (0, False),
        (1, True),
        (2, True),
    ]
    assert result.report["decision"] == "promoted"
    assert (result.report["e_steps"], result.report["m_steps"]) == (4, 2)
    assert (result.checkpoint, result.sequence) == ("a-2", 1)
    # The second iteration samples from the policy of the first M-step, and the gate from both.
    requests = [name for name, _ in itertools.groupby(parts.responses.adapters)]
    assert requests[:4] == ["tempo-v0", "tempo-t1", "tempo-v0", "tempo-v1"]
    assert set(requests[4:]) <= {"tempo-v0", "tempo-v1"}
    with parts.sessions() as s:
        assert ledger.versions.serving(s).version == 1
        assert ledger.versions.adapter(s, 1).checkpoint == "a-2"
    types = [event.type for event in events(parts, job)]
    assert types == ["critic.recalibrated", "gate.promoted"]


def test_a_round_of_a_dead_worker_goes_on_after_its_last_commit(parts: Parts) -> None:
    def die() -> None:
        if len(job.iterations()) == 2:
            raise RuntimeError("kill -9")

    job = parts.job("a")
    parts.responses.meanwhile = die
    with pytest.raises(RuntimeError):
        parts.rounds.run(job)
    numbers = [row.number for row in job.iterations()]
    parts.responses.meanwhile = lambda: None
    assert parts.rounds.run(parts.claimed_again(job)).report["iterations"] == 2
    assert [row.number for row in job.iterations()][:2] == numbers
    assert [row.position for row in job.iterations()] == [0, 1, 2]


def test_a_round_whose_worker_died_after_the_decision_is_not_decided_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_and_die(*arguments: Any, **options: Any) -> JobResult:
        recorded.append(record_decision(*arguments, **options))
        raise RuntimeError("kill -9")

    recorded: list[JobResult] = []
    job = parts.job("a")
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "record_decision", record_and_die)
        with pytest.raises(RuntimeError):
            parts.rounds.run(job)
    requests = len(parts.responses.adapters)
    result = parts.rounds.run(parts.claimed_again(job))
    assert (result.checkpoint, result.sequence) == (recorded[0].checkpoint, recorded[0].sequence)
    assert result.report["decision"] == "promoted"
    assert len(parts.responses.adapters) == requests


def test_a_round_without_warm_up_steps_goes_on_after_its_first_commit(parts: Parts) -> None:
    job = parts.job("a")
    job.commit(parts.learner, rounds.WARM_UP, {"e_steps": 0})
    parts.stops = True
    with pytest.raises(StoppedError, match="the worker stops"):  # and no second warm-up
        parts.rounds.run(job)
    assert parts.responses.adapters == []


def test_a_round_in_which_no_m_step_was_made_changes_nothing(parts: Parts) -> None:
    parts.learner.settings = parts.settings.model_copy(update={"minimum_advantage_std": 99.0})
    job = parts.job("a")
    result = parts.rounds.run(job)
    assert (result.report["decision"], result.report["m_steps"]) == ("unchanged", 0)
    assert (result.checkpoint, result.sequence) == ("a-2", 0)
    assert result.report["summary"].startswith("nothing changed: no M-step was made; the last")
    assert "upload more labeled questions" in result.report["summary"]
    refused = [event for event in events(parts, job) if event.type == "m_step.refused"]
    assert len(refused) == 2
    with parts.sessions() as s:
        assert ledger.versions.adapters(s) == []


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("questions", "no unlabeled question was captured; send questions"),
        ("held_out", "1 labeled questions train the critic and 0 are held out; upload a file"),
    ],
)
def test_a_round_without_questions_succeeds_and_says_why_it_did_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, remove: str, message: str
) -> None:
    monkeypatch.setattr(rounds, "DRAIN_SECONDS", 0.0)
    with parts.sessions.begin() as s:
        if remove == "questions":
            ledger.pool.prune(s, 0)
        else:
            for example in ledger.labeled.examples(s, "held_out"):
                s.delete(example)
    result = parts.rounds.run(parts.job("a"))
    assert result.report["summary"].startswith(f"nothing changed: {message}")
    assert (result.report["decision"], result.checkpoint, result.sequence) == ("unchanged", "", 0)
    assert parts.responses.adapters == []


def test_a_recalibration_commits_its_e_steps_and_refines_nothing(parts: Parts) -> None:
    job = parts.job("a", "recalibrate", max_steps=3)
    result = parts.rounds.run_recalibration(job)
    [row] = job.iterations()
    assert (row.position, row.refined, row.metrics["e_steps"]) == (rounds.WARM_UP, False, 3)
    assert result.report["summary"].startswith("the critic's AUROC on held-out questions: ")
    assert (result.report["decision"], result.checkpoint, result.auroc) == (
        "unchanged",
        "a-0",
        None,
    )
    again = parts.rounds.run_recalibration(job)  # its worker died before the job's end
    assert (again, len(job.iterations())) == (result, 1)


@pytest.mark.fault(
    12,
    "a loss or gradient is not a number",
    promise="the step is discarded and counted; three in a row pause training",
)
def test_three_discarded_steps_in_a_row_pause_training(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, math.nan, 0.5, math.nan, math.nan, math.nan, math.nan])

    def make_e_step(labeled: object) -> None:
        parts.learner.networks.critic.optimiser.step(next(losses))

    monkeypatch.setattr(parts.learner, "make_e_step", make_e_step)
    job = parts.job("a", "recalibrate", max_steps=20)
    with pytest.raises(StoppedError, match="training is paused: 3 optimiser steps of the critic"):
        parts.rounds.run_recalibration(job)
    assert next(losses) is math.nan  # nobody made the last step
    [event] = [event for event in events(parts, job) if event.level == "error"]
    with parts.sessions() as s:
        assert ledger.training.get(s).reason == event.message
    assert "with a lower TEMPO_CRITIC_LEARNING_RATE" in event.message


@pytest.mark.parametrize(("brier", "warnings"), [(0.2, 0), (0.3, 1)])
def test_a_round_that_ends_suspiciously_warns_once(
    parts: Parts, brier: float, warnings: int
) -> None:
    job = parts.job("j")
    briers = (0.9, 0.2, 0.25, brier)  # the warm-up does not count
    rows = [
        iteration("j", position, metrics={"e_step/brier": figure})
        for position, figure in enumerate(briers)
    ]
    warn_if_suspicious(job, rows)
    assert [event.type for event in events(parts, job)] == ["critic.suspect"] * warnings
    assert all("rose from 0.200 to 0.300" in event.message for event in events(parts, job))


def test_a_round_that_is_cancelled_while_the_gate_asks_is_not_promoted(parts: Parts) -> None:
    def cancel() -> None:
        if parts.responses.adapters[-1:] == ["tempo-v0"] and job.iterations()[2:]:  # at the gate
            with parts.sessions.begin() as s:
                ledger.jobs.finish(s, job.id, "cancelled")

    job = parts.job("a")
    parts.responses.meanwhile = cancel
    with pytest.raises(CancelledError, match="job a was cancelled"):
        parts.rounds.run(job)
    with parts.sessions() as s:
        assert ledger.versions.serving(s).version == 0
        assert ledger.versions.adapter(s, 1).status == "candidate"


def test_a_round_whose_start_was_rolled_back_is_cancelled_not_promoted(parts: Parts) -> None:
    def roll_back() -> None:
        if parts.responses.adapters[-1:] == ["tempo-v9"]:  # at the gate
            with parts.sessions.begin() as s:
                ledger.versions.promote(s, 0)

    with parts.sessions.begin() as s:
        s.add(candidate(9))
        s.flush()
        ledger.versions.promote(s, 9)
    parts.responses.meanwhile = roll_back
    job = parts.job("a")
    with pytest.raises(CancelledError, match="the serving version changed to tempo-v0 since"):
        parts.rounds.run(job)
    with parts.sessions() as s:
        assert ledger.versions.serving(s).version == 0
        assert ledger.jobs.get(s, "a").result == {}
    with pytest.raises(CancelledError):
        parts.rounds.run(parts.claimed_again(job))
