"""The learner: one policy, one critic, and the rollouts that an iteration leaves to the next."""

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from tempo_trainer.algorithm import em, within
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.fitness import measure
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.algorithm.reports import EMReport, Fitness, Updates
from tempo_trainer.learning import checkpoint
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.settings import TrainerSettings

WINDOW = 16  # iterations whose held-out rollouts may together measure the critic
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
        """Make an E-step on labeled rollouts, if there are any; leave the policy as it is."""
        if labeled:
            em.recalibrate(self.networks.critic, [self._collate(labeled)], self.settings)
            self.e_steps += 1

    def fitness(self, held_out: Sequence[Rollout]) -> Fitness:
        """Compare the critic's values with the outcomes of held-out rollouts."""
        batch = self._collate(held_out) if held_out else None
        return measure(self.networks.critic, batch, self.settings)

    def add_held_out(self, rollouts: list[Rollout]) -> None:
        """Let rollouts of the policy as it is now measure the critic from the next iteration on."""
        if rollouts:
            self.window = [*self.window, rollouts][-WINDOW:]

    def forget(self, hashes: Collection[str]) -> None:
        """Drop the labeled rollouts of questions whose labels were removed."""
        self.replay = _without(self.replay, hashes)
        self.window = _without(self.window, hashes)

    def recent_held_out(self, fresh: Sequence[Rollout] = ()) -> list[Rollout]:
        """Return the held-out rollouts that measure the critic; `fresh` ones are the newest.

        Older iterations count only until 24 draws are mixed. No two iterations share a group.
        """
        return joined(within.newest([*self.window, fresh], mixed_draws))

    def iterate(
        self,
        *,
        labeled: list[Rollout],
        unlabeled: list[Rollout],
        held_out: list[Rollout],
        no_unlabeled: str = "no unlabeled response was sampled",
    ) -> EMReport:
        """Recalibrate the critic, then refine the policy if the critic is fit.

        Any of the three may be empty. Without labeled rollouts no E-step is made, and without
        unlabeled ones no M-step is made; `no_unlabeled` is the reason.
        """
        self.add_held_out(held_out)
        batches = [self._collate(rows) for rows in (labeled, *self.replay)] if labeled else []
        if unlabeled:
            report = self._em_step(batches, unlabeled)
        else:
            report = self._recalibrate(batches, no_unlabeled)
        if labeled:
            self.replay = [labeled, *self.replay][: self.settings.replay_batches]
            self.e_steps += 1
        self.m_steps += int(report.refined)
        return report

    def _em_step(self, labeled: list[Batch], unlabeled: list[Rollout]) -> EMReport:
        held_out = self.recent_held_out()
        return em.em_step(
            self.networks,
            labeled=labeled,
            unlabeled=self._collate(unlabeled),
            held_out=self._collate(held_out) if held_out else None,
            settings=self.settings,
        )

    def _recalibrate(self, labeled: list[Batch], refusal: str) -> EMReport:
        """Make the E-step alone, if there are labeled rollouts."""
        updates = Updates.of([])
        if labeled:
            updates = em.recalibrate(self.networks.critic, labeled, self.settings)
        return EMReport(updates, self.fitness(self.recent_held_out()), refusal=refusal)

    def _collate(self, rollouts: Sequence[Rollout]) -> Batch:
        return Batch.collate(rollouts, self.networks.pad_id)

    def _state(self) -> dict[str, Any]:
        progress = {"e_steps": self.e_steps, "m_steps": self.m_steps, "drawn": self.decks.drawn}
        return {
            "networks": self.networks.state_dict(),
            "progress": copy.deepcopy(progress),
            "replay": [[_row(rollout) for rollout in rollouts] for rollouts in self.replay],
            "window": [[_row(rollout) for rollout in rollouts] for rollouts in self.window],
        }


def joined(parts: Iterable[Sequence[Rollout]]) -> list[Rollout]:
    """Return the rollouts of all parts; each part's groups get numbers of their own."""
    rollouts: list[Rollout] = []
    for part in parts:
        start = 1 + max((rollout.group for rollout in rollouts), default=-1)
        rollouts += [replace(rollout, group=start + rollout.group) for rollout in part]
    return rollouts


def mixed_draws(rollouts: Sequence[Rollout]) -> int:
    """Return how many groups of labeled rollouts were answered both right and wrong."""
    groups = [rollout.group for rollout in rollouts]
    return within.count_mixed(groups, [rollout.outcome for rollout in rollouts])


def _row(rollout: Rollout) -> dict[str, Any]:
    return {field.name: getattr(rollout, field.name) for field in fields(rollout)}


def _rollout(row: dict[str, Any]) -> Rollout:
    # Version 0.1 called the content hash `question_id`. It also stored the adapter that sampled a
    # rollout; nothing read it.
    renamed = {OLD_NAMES.get(name, name): value for name, value in row.items()}
    return Rollout(**{name: value for name, value in renamed.items() if name != "adapter"})


def _without(batches: list[list[Rollout]], hashes: Collection[str]) -> list[list[Rollout]]:
    rest = [[row for row in rows if row.content_hash not in hashes] for rows in batches]
    return [rows for rows in rest if rows]
