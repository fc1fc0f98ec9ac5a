"""The learner's state returns as it was saved, and an iteration leaves the next what it needs."""

from pathlib import Path

import pytest
import torch
from learners import Parts, rollout
from sqlalchemy.orm import Session, sessionmaker

from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.learning import checkpoint
from tempo_trainer.learning.learner import UNTRAINED, WINDOW, Learner, joined, mixed_draws


@pytest.fixture
def learner(sessions: sessionmaker[Session], tmp_path: Path) -> Learner:
    return Parts(sessions, tmp_path, held_out_per_step=2, replay_batches=1).learner


def change(learner: Learner) -> None:
    with torch.no_grad():
        learner.networks.critic.value_head.bias += 1.0
    learner.m_steps += 1
    learner.decks.drawn["train"] += 16


def bias(learner: Learner) -> float:
    return learner.networks.critic.value_head.bias.item()


def test_the_untrained_state_can_be_restored_more_than_once(learner: Learner) -> None:
    for _ in range(2):
        change(learner)
        learner.save("job-1")
        learner.restore(UNTRAINED)
        assert (bias(learner), learner.m_steps) == (0.0, 0)
        assert learner.decks.drawn == {"train": 0, "held_out": 0, "unlabeled": 0}


def test_a_checkpoint_restores_weights_counters_and_rollouts(learner: Learner) -> None:
    change(learner)
    learner.window = [[rollout("a")]]
    learner.replay = [[rollout("b")], [rollout("c")]]
    learner.save("job-1")
    change(learner)
    learner.window = []
    learner.replay = []
    learner.save("job-2")
    learner.restore("job-1")
    assert (bias(learner), learner.m_steps, learner.decks.drawn["train"]) == (1.0, 1, 16)
    assert (learner.window, learner.replay) == ([[rollout("a")]], [[rollout("b")], [rollout("c")]])


def test_the_rollouts_of_removed_labels_are_forgotten(learner: Learner) -> None:
    learner.window = [[rollout("a")], [rollout("b"), rollout("c")]]
    learner.replay = [[rollout("b")], [rollout("c"), rollout("a")]]
    learner.forget({"a", "none"})
    assert learner.window == [[rollout("b"), rollout("c")]]
    assert learner.replay == [[rollout("b")], [rollout("c")]]


def test_a_restored_learner_forgets_what_it_did_since(learner: Learner) -> None:
    learner.save("job-1")
    change(learner)
    learner.restore("job-1")
    assert (bias(learner), learner.m_steps, learner.decks.drawn["train"]) == (0.0, 0, 0)


def test_a_checkpoint_of_version_0_1_is_restored(learner: Learner) -> None:
    learner.window = [[rollout("a")]]
    learner.replay = [[rollout("b")]]
    learner.save("job-1")
    root = learner.settings.checkpoints_dir
    state = checkpoint.load(root, "job-1")
    for row in (*state["window"][0], *state["replay"][0]):
        row["adapter"] = "tempo-t1"  # it named the adapter that sampled each rollout
        row["question_id"] = row.pop("content_hash")
    checkpoint.save(root, "old-1", state)
    learner.window = []
    learner.restore("old-1")
    assert (learner.window, learner.replay) == ([[rollout("a")]], [[rollout("b")]])


def both(question: str, group: int = 0) -> list[Rollout]:
    """Return a right and a wrong response to a question."""
    return [rollout(question, group=group, outcome=outcome) for outcome in (1.0, -1.0)]


def test_an_iteration_leaves_its_rollouts_to_those_after_it(learner: Learner) -> None:
    for number in range(WINDOW + 1):
        labeled = both(f"l{number}")
        report = learner.iterate(labeled=labeled, unlabeled=labeled, held_out=both(f"h{number}"))
    assert learner.e_steps == WINDOW + 1
    assert learner.m_steps <= learner.e_steps
    assert report.e_step.steps == 2  # the fresh batch and one that is replayed
    assert [rows[0].content_hash for rows in learner.replay] == [f"l{WINDOW}"]
    newest = [f"h{number}" for number in range(1, WINDOW + 1)]
    assert [rows[0].content_hash for rows in learner.window] == newest
    assert report.fitness.mixed_draws == WINDOW


def test_a_part_s_groups_are_not_joined_with_those_of_another() -> None:
    first, last = rollout(group=0), rollout(group=1)
    groups = [row.group for row in joined([[first, first, last], [first, last], []])]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4


def test_older_held_out_rollouts_are_read_until_24_draws_are_mixed(learner: Learner) -> None:
    learner.window = [
        [row for group in range(count) for row in both(name, group)]
        for name, count in (("old", 30), ("new", 20))
    ]
    learner.window[1] += [rollout("new", group=99)]  # it is not mixed
    fresh = [row for group in range(4) for row in both("fresh", group)]
    assert {row.content_hash for row in learner.recent_held_out(fresh)} == {"new", "fresh"}
    assert {row.content_hash for row in learner.recent_held_out(fresh[2:])} == {
        "old",
        "new",
        "fresh",
    }
    assert mixed_draws(learner.recent_held_out(fresh)) == 24
    assert len(learner.window) == 2  # reading adds nothing


def test_without_unlabeled_rollouts_the_e_step_is_made_and_the_m_step_refused(
    learner: Learner,
) -> None:
    report = learner.iterate(
        labeled=both("l"), unlabeled=[], held_out=both("h"), no_unlabeled="all were too long"
    )
    assert (report.recalibrated, report.refined) == (True, False)
    assert report.refusal == "all were too long"
    assert (learner.e_steps, learner.m_steps, len(learner.replay)) == (1, 0, 1)
    assert "m_step/reward" not in report.metrics()


def test_without_any_rollout_nothing_changes(learner: Learner) -> None:
    learner.replay = [both("old")]
    report = learner.iterate(labeled=[], unlabeled=[], held_out=[], no_unlabeled="all too long")
    assert (report.recalibrated, report.refined) == (False, False)
    assert (learner.e_steps, learner.window, len(learner.replay)) == (0, [], 1)
    assert report.metrics()["e_step/steps"] == 0


def test_without_labeled_rollouts_the_critic_is_left_as_it_is(learner: Learner) -> None:
    learner.replay = [both("old")]
    before = bias(learner)
    report = learner.iterate(labeled=[], unlabeled=both("u"), held_out=both("h"))
    assert not report.recalibrated
    assert bias(learner) == before
    assert report.refusal.startswith("critic's fitness unknown: 1 of 1 draws")


def test_the_e_steps_of_a_warm_up_need_rollouts(learner: Learner) -> None:
    learner.make_e_step([])
    assert learner.e_steps == 0
    learner.make_e_step(both("l"))
    assert learner.e_steps == 1
