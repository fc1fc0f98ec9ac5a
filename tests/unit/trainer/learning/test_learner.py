"""The learner's state returns as it was saved, and an iteration leaves the next what it needs."""

from pathlib import Path

import pytest
import torch
from learners import Parts, rollout
from sqlalchemy.orm import Session, sessionmaker

from tempo_trainer.learning import checkpoint
from tempo_trainer.learning.learner import UNTRAINED, WINDOW, Learner


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


def test_an_iteration_leaves_its_rollouts_to_those_after_it(learner: Learner) -> None:
    for number in range(WINDOW + 1):
        labeled = [rollout(f"l{number}"), rollout(f"l{number}", outcome=-1.0)]
        held_out = [rollout(f"h{number}"), rollout(f"h{number}", outcome=-1.0)]
        report = learner.iterate(labeled=labeled, unlabeled=labeled, held_out=held_out)
    assert learner.e_steps == WINDOW + 1
    assert learner.m_steps <= learner.e_steps
    assert report.e_step.steps == 2  # the fresh batch and one that is replayed
    assert [rows[0].content_hash for rows in learner.replay] == [f"l{WINDOW}"]
    assert [rows[0].content_hash for rows in learner.window] == ["h1", "h2", "h3", "h4"]


def test_held_out_groups_of_different_iterations_are_not_joined(learner: Learner) -> None:
    first, last = rollout(group=0), rollout(group=1)
    learner.window = [[first, first, last], [first, last]]
    groups = [row.group for row in learner._recent_held_out()]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4
