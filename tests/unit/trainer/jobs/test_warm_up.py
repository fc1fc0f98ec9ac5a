"""A warm-up that is stopped keeps its E-steps, and says why it could not learn."""

from pathlib import Path

import pytest
from learners import Parts
from ledgers import captured, held_out, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_trainer.errors import StoppedError
from tempo_trainer.jobs import warm_up
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.learning.learner import Learner


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add(labeled("1 + 1"))
        s.add_all(held_out(f"2 + {n}", reference=[str(n)]) for n in range(8))
    return Parts(sessions, tmp_path, warm_up_steps=4)


def positions(job: RunningJob) -> list[tuple[int, int]]:
    """Return position and number of E-steps of each commit."""
    return [(row.position, row.metrics["e_steps"]) for row in job.iterations()]


def pause_after(parts: Parts, requests: int) -> None:
    """Pause training during the request for rollouts with this number."""

    def pause() -> None:
        if len(parts.responses.adapters) == requests - 1:
            with parts.sessions.begin() as s:
                ledger.training.set_paused(s, True)

    parts.responses.meanwhile = pause


def resume(parts: Parts) -> None:
    """Let training go on without another stop."""
    parts.responses.meanwhile = lambda: None
    parts.stops = False
    with parts.sessions.begin() as s:
        ledger.training.set_paused(s, False)


@pytest.mark.parametrize("cause", ["pause", "Ctrl-C"])
def test_a_warm_up_that_is_stopped_goes_on_with_the_e_step_that_comes_next(
    parts: Parts, cause: str
) -> None:
    job = parts.job("a", "recalibrate")
    if cause == "pause":
        pause_after(parts, 3)  # the held-out questions, then the first E-step
    else:

        def stop() -> None:
            parts.stops = len(parts.responses.adapters) == 2

        parts.responses.meanwhile = stop
    with pytest.raises(StoppedError):
        parts.rounds.run_recalibration(job)
    assert positions(job) == [(-2, 2)]
    resume(parts)
    parts.learner.e_steps = 99  # another worker takes the state from the checkpoint
    result = parts.rounds.run_recalibration(parts.claimed_again(job))
    assert positions(job) == [(-2, 2), (0, 2)]
    assert parts.learner.e_steps == 4
    assert (result.report["e_steps"], result.checkpoint) == (4, "a-0")
    assert len(parts.responses.adapters) == 6  # each E-step once, the held-out questions twice


def test_a_warm_up_that_is_stopped_before_its_first_e_step_commits_nothing(parts: Parts) -> None:
    job = parts.job("a", "recalibrate")
    pause_after(parts, 1)
    with pytest.raises(StoppedError):
        parts.rounds.run_recalibration(job)
    assert job.iterations() == []


def test_a_worker_that_is_killed_loses_only_the_e_steps_since_the_last_commit(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        if len(parts.responses.adapters) == 4:
            raise RuntimeError("kill -9")

    monkeypatch.setattr(warm_up, "KEEP_SECONDS", 0.0)
    parts.responses.meanwhile = die
    job = parts.job("a", "recalibrate")
    with pytest.raises(RuntimeError):
        parts.rounds.run_recalibration(job)
    assert positions(job) == [(-3, 1), (-2, 1), (-1, 1)]
    parts.responses.meanwhile = lambda: None
    parts.rounds.run_recalibration(parts.claimed_again(job))
    assert positions(job)[3:] == [(0, 1)]
    assert len(parts.responses.adapters) == 6


def test_a_stopped_warm_up_ends_with_the_same_critic(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(learner: Learner) -> list[float]:
        named = learner.networks.state_dict()["weights"]
        return [float(tensor.double().sum()) for tensor in named.values()]

    parts.rounds.run_recalibration(parts.job("whole", "recalibrate"))
    whole = weights(parts.learner)
    with parts.sessions.begin() as s:  # the next job begins at the untrained state again
        ledger.jobs.finish(s, "whole", "cancelled")
    monkeypatch.setattr(warm_up, "KEEP_SECONDS", 0.0)
    parts.rounds.run_recalibration(parts.job("parts", "recalibrate"))
    assert weights(parts.learner) == whole


def test_a_round_goes_on_with_its_warm_up_and_then_iterates(parts: Parts) -> None:
    job = parts.job("a", max_steps=1)
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured("a", "3 + 3")])
    pause_after(parts, 3)
    with pytest.raises(StoppedError):
        parts.rounds.run(job)
    resume(parts)
    result = parts.rounds.run(parts.claimed_again(job))
    assert [position for position, _ in positions(job)] == [-2, 0, 1]
    assert (result.report["iterations"], result.report["e_steps"]) == (1, 5)


def test_a_warm_up_whose_responses_are_all_truncated_says_so_with_the_setting(
    parts: Parts,
) -> None:
    parts.responses.left_out = {"all_truncated": 3}
    job = parts.job("a", "recalibrate")
    pause_after(parts, 3)
    with pytest.raises(StoppedError):
        parts.rounds.run_recalibration(job)
    resume(parts)
    result = parts.rounds.run_recalibration(parts.claimed_again(job))
    summary = result.report["summary"]
    assert "18 questions have only responses that were cut at the length limit" in summary
    assert "raise TEMPO_MAX_RESPONSE_TOKENS" in summary
    assert result.report["critic_within_auroc"] is None
