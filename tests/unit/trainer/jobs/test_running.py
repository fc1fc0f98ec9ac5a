"""A running job commits its iterations, and knows from where and whether it may go on."""

from pathlib import Path

import pytest
import torch
from learners import Parts, rollout
from ledgers import candidate, captured
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import Iteration, JobResult, Question
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.learning.learner import UNTRAINED, Learner
from tempo_trainer.sampling.responses import Rollouts


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    return Parts(sessions, tmp_path)


def test_an_iteration_names_its_parent_and_the_questions_that_it_learned_from(parts: Parts) -> None:
    jobs = {name: parts.job(name) for name in "ab"}
    for name, position, refined in (
        ("a", 0, False),
        ("a", 1, True),
        ("a", 2, False),
        ("b", 1, True),
    ):
        keys = {"content_hash": "q", "loose_hash": "q"}
        questions = [Question(id=f"{name}{position}", tenant="", **keys)]
        draw = Rollouts([rollout("q")], tokens=2, questions=questions)
        jobs[name].commit(parts.learner, position, {}, draw=draw, refined=refined)
        if position == 1:
            with parts.sessions.begin() as s:
                s.add(candidate(ord(name), job_id=name, checkpoint=f"{name}-1"))
        if position == 2:
            parts.learner.restore("a-1")
    with parts.sessions() as s:
        rows = {row.checkpoint: row.parent for row in s.scalars(select(Iteration))}
        assert rows == {"a-0": "", "a-1": "a-0", "a-2": "a-1", "b-1": "a-1"}
        # The questions of a-2 taught nothing: its M-step was refused.
        assert ledger.learned.question_ids(s, "a-2") == ["a1"]
        assert ledger.learned.question_ids(s, "b-1") == ["a1", "b1"]


def test_a_committed_iteration_counts_its_questions_as_drawn_and_learns_from_those_with_rollouts(
    parts: Parts,
) -> None:
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured(id, text) for id, text in (("a", "short"), ("b", "long"))])
        questions = sorted(ledger.pool.next_questions(s, 2), key=lambda row: row.id)
    draw = Rollouts([rollout(questions[0].content_hash)], tokens=2, too_long=1, questions=questions)
    job = parts.job("j")
    job.commit(parts.learner, 1, {}, draw=draw, refined=True)
    with parts.sessions.begin() as s:
        assert ledger.learned.question_ids(s, "j-1") == ["a"]
        ledger.pool.add(s, [captured("c", "new")])
        # The one that is too long does not come first again.
        assert [row.id for row in ledger.pool.next_questions(s, 1)] == ["c"]
    assert [row.question_ids for row in job.iterations()] == [["a"]]


def test_a_committed_iteration_has_its_job_s_attempts_counted_anew(parts: Parts) -> None:
    jobs = [parts.job(name) for name in "ab"]
    with parts.sessions.begin() as s:
        for job in jobs:
            ledger.jobs.get(s, job.id).attempts = 3
    jobs[0].commit(parts.learner, 1, {})
    with parts.sessions() as s:
        assert [ledger.jobs.get(s, job.id).attempts for job in jobs] == [1, 3]


def test_the_checkpoint_of_a_waiting_job_outlasts_another_job(parts: Parts) -> None:
    first, second = parts.job("a"), parts.job("b")
    for job, position in ((first, 1), (first, 2), (second, 1)):
        job.commit(parts.learner, position, {})
    names = {path.name for path in parts.settings.checkpoints_dir.iterdir()}
    assert names == {"a-2", "b-1"}


def test_a_worker_without_the_lease_commits_nothing_and_deletes_nothing(parts: Parts) -> None:
    job = parts.job("a")
    job.commit(parts.learner, 1, {})
    parts.epoch = 7
    with pytest.raises(LeaseLostError):
        job.commit(parts.learner, 2, {})
    assert [row.position for row in job.iterations()] == [1]
    assert (parts.settings.checkpoints_dir / "a-1").is_dir()


def test_a_job_goes_on_only_while_nobody_stops_pauses_cancels_or_rolls_back(parts: Parts) -> None:
    job = parts.job("r")
    job.raise_if_training_stopped()
    parts.stops = True
    with pytest.raises(StoppedError, match="the worker stops"):
        job.raise_if_stopped()
    parts.stops = False
    with parts.sessions.begin() as s:
        ledger.training.set_paused(s, True)
    job.raise_if_stopped()  # no pause stops a check
    with pytest.raises(StoppedError, match="training is paused"):
        job.raise_if_training_stopped()
    with parts.sessions.begin() as s:
        ledger.training.set_paused(s, False)
        ledger.versions.serving(s).sequence += 1
    with pytest.raises(CancelledError, match="the serving version changed to tempo-v0 since"):
        job.raise_if_training_stopped()
    with parts.sessions.begin() as s:
        ledger.versions.serving(s).sequence -= 1
        ledger.jobs.finish(s, "r", "cancelled")
    with pytest.raises(CancelledError, match="was cancelled"):
        job.raise_if_stopped()


# Where training goes on ---------------------------------------------------------------------------


def train(learner: Learner) -> None:
    """Change weights and optimiser state as an M-step does, without one."""
    for parameter in learner.networks.adapter_parameters("policy").values():
        parameter.grad = torch.ones_like(parameter)
    learner.networks.policy.optimiser.step(0.0)
    learner.m_steps += 1


def optimiser_steps(learner: Learner) -> set[float]:
    state = learner.networks.state_dict()["optimisers"]["policy"]
    return {float(value["step"]) for value in state["state"].values()}


def end_round(parts: Parts, version: int, *, promoted: bool) -> None:
    """Let a round of one M-step end at the gate as `version`."""
    job = parts.job(f"r{version}")
    learner = parts.learner
    learner.restore(job.starting_checkpoint())
    train(learner)
    job.commit(learner, 1, {}, refined=True)
    with parts.sessions.begin() as s:
        parent = ledger.versions.serving(s).version
        row = candidate(version, parent=parent, job_id=job.id, checkpoint=learner.checkpoint)
        s.add(row)
        s.flush()
        if promoted:
            ledger.versions.promote(s, version)
        else:
            row.status = "rejected"
        sequence = ledger.versions.serving(s).sequence
        result = JobResult(report={}, sequence=sequence, checkpoint=learner.checkpoint)
        ledger.jobs.finish(s, job.id, "succeeded", result=result)


def test_after_a_rollback_training_goes_on_from_that_version_optimiser_included(
    parts: Parts,
) -> None:
    learner = parts.learner
    following = parts.job("next")
    end_round(parts, 1, promoted=True)
    weights = learner.networks.state_dict()["weights"]
    end_round(parts, 2, promoted=False)  # perhaps not worse: the next round goes on from it
    assert following.starting_checkpoint() == "r2-1"
    end_round(parts, 3, promoted=True)
    assert following.starting_checkpoint() == "r3-1"
    assert optimiser_steps(learner) == {3.0}
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 1)
    learner.restore(following.starting_checkpoint())
    assert learner.checkpoint == "r1-1"
    assert optimiser_steps(learner) == {1.0}
    restored = learner.networks.state_dict()["weights"]
    assert all(torch.equal(restored[name], weights[name]) for name in weights)
    end_round(parts, 4, promoted=False)
    with parts.sessions.begin() as s:
        ledger.jobs.create(s, "check", "check", {}).status = "succeeded"
    assert following.starting_checkpoint() == "r4-1"
    with parts.sessions.begin() as s:  # version 1 serves again: later training is left behind
        ledger.versions.promote(s, BASE)
        ledger.versions.promote(s, 1)
    assert following.starting_checkpoint() == "r1-1"
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, BASE)
    assert following.starting_checkpoint() == UNTRAINED


def test_a_job_goes_on_from_its_own_last_iteration(parts: Parts) -> None:
    end_round(parts, 1, promoted=True)
    job = parts.job("a")
    job.commit(parts.learner, 1, {})
    assert job.starting_checkpoint() == "a-1"
