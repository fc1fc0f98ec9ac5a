"""The E-step on a bandit: what the critic learns from, and in which order."""

from dataclasses import replace

import pytest
import torch
from tiny import everything, play, same, started, warmed_up

from tempo_trainer.algorithm import steps
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import recalibrate
from tempo_trainer.algorithm.networks import Critic
from tempo_trainer.algorithm.optimiser import Update
from tempo_trainer.settings import TrainerSettings


def test_recalibration_replays_old_batches_and_ends_with_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nets, settings = started(warm_up=0, replay_batches=2, critic_epochs=2)
    batches = [play(nets, labeled=True, seed=seed, n=seed + 2) for seed in range(4)]
    sizes: list[int] = []
    original = steps.critic_step

    def critic_step(critic: Critic, batch: Batch, settings: TrainerSettings) -> Update:
        sizes.append(len(batch))
        return original(critic, batch, settings)

    monkeypatch.setattr(steps, "critic_step", critic_step)
    assert recalibrate(nets.critic, batches, settings).steps == 6
    newest_last = [len(batches[2]), len(batches[1]), len(batches[0])]
    assert sizes == newest_last * 2


def test_the_critic_never_learns_from_unlabeled_rows() -> None:
    results = []
    for with_unlabeled in (False, True):
        nets, settings = started(warm_up=1)
        batch = play(nets, labeled=True, seed=0)
        if with_unlabeled:
            batch = batch.concatenate(play(nets, labeled=False, seed=1))
        recalibrate(nets.critic, [batch], settings)
        results.append(everything(nets))
    assert same(*results)


def test_the_critic_learns_from_groups_whose_outcomes_are_all_alike() -> None:
    nets, settings = started(warm_up=2)
    batch = play(nets, labeled=True, seed=0)
    alike = replace(batch, outcome=torch.where(batch.group == 0, 1.0, batch.outcome))
    results = []
    for rows in (alike, alike.select(alike.group != 0)):
        nets.load_state_dict(warmed_up(2))
        recalibrate(nets.critic, [rows], settings)
        results.append(everything(nets))
    assert not same(*results)
    only = alike.select(alike.group == 0)
    assert recalibrate(nets.critic, [only], settings).steps == settings.critic_epochs
