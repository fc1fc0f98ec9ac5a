"""An iteration measures the critic on enough responses, and goes on without useless questions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from learners import HELD_OUT, Parts, rollout
from ledgers import captured, held_out, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_trainer.jobs import round_reports
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.sampling.responses import Rollouts

SETTINGS = {
    "minimum_advantage_std": 0,
    "warm_up_steps": 2,
    "iterations_per_round": 2,
    "held_out_per_step": 3,
}
TOKENS = {"labeled": 4, "held_out": 4 * HELD_OUT, "unlabeled": 4}


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all([labeled("1 + 1"), held_out("2 + 2")])
        ledger.pool.add(s, [captured("a", "3 + 3"), captured("b", "4 + 4")])
    worker = Parts(sessions, tmp_path, **SETTINGS)
    with sessions() as s:
        worker.responses.questions = ledger.pool.next_questions(s, 2)
    return worker


def events(parts: Parts, job: RunningJob, type: str) -> list[Any]:
    with parts.sessions() as s:
        return [event for event in ledger.events.find(s, job_id=job.id) if event.type == type]


def held_out_draws(mixed: int, *, alike: int = 0) -> Callable[..., Rollouts]:
    """Return a stand-in whose held-out draws have so many mixed groups and others all right."""

    def labeled_rollouts(split: str, count: int, adapter: str) -> Rollouts:
        groups = range(mixed if split == "held_out" else 1)
        rows = [
            rollout(f"q{group}", group=group, outcome=outcome, token=token)
            for group in groups
            for outcome, token in ((1.0, 4), (-1.0, 7))
        ]
        rows += [rollout(f"a{group}", group=100 + group) for group in range(alike)]
        return Rollouts(rows, tokens=2 * len(rows))

    return labeled_rollouts


def test_an_iteration_commits_what_it_sampled_and_the_curves_of_its_critic(parts: Parts) -> None:
    job = parts.job("a")
    parts.rounds._iterate(job, 1, 2)
    [row] = job.iterations()
    assert row.metrics["rollouts/tokens"] == sum(TOKENS.values())
    assert (row.metrics["e_steps"], row.metrics["rollouts/too_long"]) == (1, 0)
    assert row.metrics["e_step/mixed_draws"] == HELD_OUT
    curve = row.metrics["e_step/reliability"]
    assert sum(count for _, _, count in curve) == 2 * HELD_OUT
    assert row.metrics["e_step/reliability_by_truncation"] == {"finished": curve}
    thirds = row.metrics["e_step/reliability_by_length"]
    assert [sum(n for _, _, n in part) for part in thirds.values()] == [2 * HELD_OUT]


def test_an_iteration_counts_all_its_questions_as_drawn(parts: Parts) -> None:
    parts.rounds._iterate(parts.job("a"), 1, 2)
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured("new", "5 + 5")])
        assert [row.id for row in ledger.pool.next_questions(s, 1)] == ["new"]


@pytest.mark.parametrize(("mixed", "more"), [(24, 0), (23, 1), (5, 4), (1, 8), (0, 8)])
def test_more_held_out_responses_are_drawn_until_24_draws_are_mixed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, mixed: int, more: int
) -> None:
    draws = held_out_draws(mixed, alike=3)
    monkeypatch.setattr(parts.responses, "labeled_rollouts", draws)
    job = parts.job("a")
    parts.rounds._iterate(job, 1, 2)
    [row] = job.iterations()
    assert row.metrics["e_step/mixed_draws"] == mixed * (1 + more)
    assert row.metrics["e_step/draws"] == (mixed + 3) * (1 + more)
    more_events = events(parts, job, "critic.more_responses")
    if not more:
        assert more_events == []
        return
    assert more_events[0].message == (
        f"held-out questions were drawn {more} more times: 24 draws with right and wrong responses"
        f" measure the critic, {mixed} were there, and now there are {mixed * (1 + more)}"
    )
    if mixed * (1 + more) < 24:
        assert row.metrics["refusal"].startswith("critic's fitness unknown: ")


def test_held_out_responses_of_the_warm_up_measure_the_critic_of_the_first_iteration(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.responses, "labeled_rollouts", held_out_draws(20))
    job = parts.job("a")
    parts.rounds._warm_up(job, 1)
    assert len(parts.learner.window) == 1
    parts.learner.restore("a-0")  # it is in the checkpoint, too
    monkeypatch.setattr(parts.responses, "labeled_rollouts", held_out_draws(4))
    parts.rounds._iterate(job, 1, 2)
    warm_up, first = job.iterations()
    assert first.metrics["e_step/mixed_draws"] == 24
    assert warm_up.metrics["rollouts/tokens"] == 2 * 80 + 4
    assert events(parts, job, "critic.more_responses") == []


def test_the_figure_that_decides_about_a_recalibration_is_that_within_questions(
    parts: Parts,
) -> None:
    parts.learner.settings = parts.settings.model_copy(update={"minimum_advantage_std": 99.0})
    result = parts.rounds.run(parts.job("a"))
    assert result.auroc == result.report["critic_within_auroc"] == 1.0


def test_a_round_in_which_every_question_is_left_out_ends_unchanged_with_the_reason(
    parts: Parts,
) -> None:
    parts.responses.left_out = {"too_long": 2, "all_truncated": 1}
    job = parts.job("a")
    result = parts.rounds.run(job)
    assert (result.report["decision"], result.report["e_steps"]) == ("unchanged", 2)
    reason = (
        "2 questions leave no room for a response (raise vLLM's --max-model-len, or lower"
        " TEMPO_MAX_RESPONSE_TOKENS); 1 questions have only responses that were cut at the length"
        " limit (raise TEMPO_MAX_RESPONSE_TOKENS)"
    )
    refusal = f"no unlabeled response is left: {reason}"
    summary = f"nothing changed: no M-step was made; the last refusal: {refusal}"
    assert result.report["summary"] == summary
    [event] = events(parts, job, "questions.left_out")
    counts = [row.metrics for row in job.iterations()]
    assert event.data == {
        name: sum(metrics[f"rollouts/{name}"] for metrics in counts)
        for name in ("too_long", "all_truncated")
    }


def test_a_round_goes_on_without_unlabeled_responses_as_far_as_the_e_step(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Rollouts([], tokens=0, all_truncated=2, questions=parts.responses.questions)
    monkeypatch.setattr(parts.responses, "unlabeled_rollouts", lambda *_: nothing)
    job = parts.job("a")
    result = parts.rounds.run(job)
    assert (result.report["decision"], result.report["m_steps"]) == ("unchanged", 0)
    assert [row.metrics["e_steps"] for row in job.iterations()] == [2, 1, 1]
    assert len(events(parts, job, "m_step.refused")) == 2
    assert len(events(parts, job, "questions.left_out")) == 1


def test_a_pool_that_became_empty_refuses_the_m_step_with_the_remedy(parts: Parts) -> None:
    parts.responses.questions = []
    parts.responses.left_out = {"too_long": 0, "all_truncated": 0}
    job = parts.job("a")
    parts.rounds._iterate(job, 1, 2)
    assert job.iterations()[0].metrics["refusal"] == (
        "no unlabeled question is left in the pool; send questions with TEMPO_CAPTURE=on"
    )
    round_reports.report_left_out(job, job.iterations())
    assert events(parts, job, "questions.left_out") == []
