"""The learner: one policy, one critic, and the rollouts that an iteration leaves to the next."""

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from tempo_trainer.algorithm import em
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.fitness import measure
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.algorithm.reports import EMReport, Fitness
from tempo_trainer.learning import checkpoint
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.settings import TrainerSettings

WINDOW = 4  # iterations whose held-out rollouts together measure the critic
UNTRAINED = ""
OLD_NAMES = {"question_id": "content_hash"}


class Learner:
    """Everything that an iteration changes. It stays in memory between jobs."""

    def __init__(self, networks: Networks, settings: TrainerSettings) -> None:
        self.settings = settings
        self.networks = networks
        self.e_steps = 0
        self.m_steps = 0
        self.decks = Decks()
        self.replay: list[list[Rollout]] = []
        """Labeled rollouts of earlier iterations, newest first; each E-step reads them again."""
        self.window: list[list[Rollout]] = []
        """Held-out rollouts of the last iterations, newest last."""
        self.checkpoint = UNTRAINED
        """Name of the checkpoint that holds this state, or from which it continued."""
        self._untrained = self._state()

    def restore(self, name: str) -> None:
        """Load the checkpoint `name`; the empty name is the untrained state."""
        state = checkpoint.load(self.settings.checkpoints_dir, name) if name else self._untrained
        self.networks.load_state_dict(state["networks"])
        progress = state["progress"]
        self.e_steps = progress["e_steps"]
        self.m_steps = progress["m_steps"]
        self.decks.drawn = dict(progress["drawn"])
        self.replay = [[_rollout(row) for row in rows] for rows in state["replay"]]
        self.window = [[_rollout(row) for row in rows] for rows in state["window"]]
        self.checkpoint = name

    def save(self, name: str) -> None:
        """Write the checkpoint `name`."""
        checkpoint.save(self.settings.checkpoints_dir, name, self._state())
        self.checkpoint = name

    def make_e_step(self, labeled: Sequence[Rollout]) -> None:
        """Make an E-step on labeled rollouts; leave the policy as it is."""
        em.recalibrate(self.networks.critic, [self._collate(labeled)], self.settings)
        self.e_steps += 1

    def fitness(self, held_out: Sequence[Rollout]) -> Fitness:
        """Compare the critic's values with the outcomes of held-out rollouts."""
        return measure(self.networks.critic, self._collate(held_out), self.settings)

    def iterate(
        self, *, labeled: list[Rollout], unlabeled: list[Rollout], held_out: list[Rollout]
    ) -> EMReport:
        """Recalibrate the critic, then refine the policy if the critic is fit."""
        self.window = [*self.window, held_out][-WINDOW:]
        report = em.em_step(
            self.networks,
            labeled=[self._collate(rollouts) for rollouts in (labeled, *self.replay)],
            unlabeled=self._collate(unlabeled),
            held_out=self._collate(self._recent_held_out()),
            settings=self.settings,
        )
        self.replay = [labeled, *self.replay][: self.settings.replay_batches]
        self.e_steps += 1
        self.m_steps += int(report.refined)
        return report

    def _collate(self, rollouts: Sequence[Rollout]) -> Batch:
        return Batch.collate(rollouts, self.networks.pad_id)

    def _recent_held_out(self) -> list[Rollout]:
        """Return the window's rollouts, with group numbers that no two iterations share."""
        step = self.settings.held_out_per_step
        return [
            replace(rollout, group=rollout.group + index * step)
            for index, rollouts in enumerate(self.window)
            for rollout in rollouts
        ]

    def _state(self) -> dict[str, Any]:
        progress = {"e_steps": self.e_steps, "m_steps": self.m_steps, "drawn": self.decks.drawn}
        return {
            "networks": self.networks.state_dict(),
            "progress": copy.deepcopy(progress),
            "replay": [[_row(rollout) for rollout in rollouts] for rollouts in self.replay],
            "window": [[_row(rollout) for rollout in rollouts] for rollouts in self.window],
        }


def _row(rollout: Rollout) -> dict[str, Any]:
    return {field.name: getattr(rollout, field.name) for field in fields(rollout)}


def _rollout(row: dict[str, Any]) -> Rollout:
    # Version 0.1 called the content hash `question_id`. It also stored the adapter that sampled a
    # rollout; nothing read it.
    renamed = {OLD_NAMES.get(name, name): value for name, value in row.items()}
    return Rollout(**{name: value for name, value in renamed.items() if name != "adapter"})
