"""What stays in the worker's memory between jobs: networks, replay, counters; and one iteration.

    sample from the served policy  →  em_step  →  checkpoint  →  commit, fenced by the lease

The commit is the only thing that counts: whatever was computed before a crash is computed again
from the last committed iteration.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, version_name
from tempo_storage.ledger.models import Iteration, LabeledExample, Question
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import em_step, recalibrate
from tempo_trainer.algorithm.fitness import measure
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.algorithm.reports import EMReport, Fitness
from tempo_trainer.clock import phase
from tempo_trainer.failpoints import reach
from tempo_trainer.learning import checkpoint
from tempo_trainer.sampling.deck import draw
from tempo_trainer.sampling.sampler import Prompt, Rollouts, Sample, Sampler, rollouts_of
from tempo_trainer.sampling.verifier_pool import Item, VerifierPool, refuse_failing
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger(__name__)
WINDOW = 4  # iterations whose held-out rollouts together judge the critic


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the learner that it may touch."""

    settings: WorkerSettings
    sessions: sessionmaker[Session]
    store: AdapterStore
    sampler: Sampler
    rollouts: Rollouts
    """What training samples from: the sampler, or what was recorded of it."""
    verifiers: VerifierPool
    base: str
    epoch: Callable[[], int]
    should_stop: Callable[[], bool]

    def close(self) -> None:
        """End the verifiers and the connections."""
        self.sampler.close()
        self.verifiers.close()


UNTRAINED = ""
DIRTY = "(ahead of every checkpoint)"
DECKS = ("train", "held_out", "unlabeled")


@dataclass(slots=True)
class Progress:
    """Counters that a checkpoint restores."""

    e_steps: int = 0
    m_steps: int = 0
    drawn: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DECKS, 0))


class Learner:
    """One policy and one critic in memory."""

    def __init__(self, world: World, networks: Networks) -> None:
        self.world = world
        self.networks = networks
        self.progress = Progress()
        self.replay: list[list[Rollout]] = []
        self.window: list[list[Rollout]] = []
        self.checkpoint = UNTRAINED
        self._went_on_from = UNTRAINED
        self._fresh = self._state()

    # State ---------------------------------------------------------------------------------------

    def restore(self, name: str) -> None:
        """Load the checkpoint `name`; the empty name is the untrained state."""
        if name == self.checkpoint:
            return
        state = self._fresh
        if name:
            state = checkpoint.load(self.world.settings.checkpoints_dir, name)
        self.networks.load_state_dict(state["networks"])
        self.progress = Progress(**copy.deepcopy(state["progress"]))
        self.replay = [[Rollout(**r) for r in rows] for rows in state["replay"]]
        self.window = [[Rollout(**r) for r in rows] for rows in state["window"]]
        self.checkpoint = self._went_on_from = name

    def save(self, name: str) -> None:
        """Write the checkpoint `name` and make it the current one."""
        checkpoint.save(self.world.settings.checkpoints_dir, name, self._state())
        self.checkpoint = self._went_on_from = name

    def _state(self) -> dict[str, Any]:
        return {
            "networks": self.networks.state_dict(),
            "progress": copy.deepcopy(_fields(self.progress)),
            "replay": [[_fields(r) for r in rows] for rows in self.replay],
            "window": [[_fields(r) for r in rows] for rows in self.window],
        }

    # One iteration -------------------------------------------------------------------------------

    def recalibrate_once(self, adapter: str) -> None:
        """Fit the critic to fresh labeled rollouts of the policy as it stands, and nothing else."""
        settings = self.world.settings
        self.checkpoint = DIRTY
        labeled = self.labeled_rollouts("train", settings.warm_up_questions, adapter)
        recalibrate(self.networks.critic, [self.collate(labeled)], settings)
        self.progress.e_steps += 1

    def fitness(self, adapter: str) -> Fitness:
        """Judge the critic on fresh rollouts of held-out questions."""
        settings = self.world.settings
        held_out = self.labeled_rollouts("held_out", WINDOW * settings.held_out_per_step, adapter)
        return measure(self.networks.critic, self.collate(held_out), settings)

    def iterate(self) -> tuple[EMReport, list[Question]]:
        """Sample, recalibrate, refine if the critic is fit; return the unlabeled questions."""
        settings = self.world.settings
        self.checkpoint = DIRTY
        adapter = self.publish_trial()
        labeled = self.labeled_rollouts("train", settings.labeled_per_step, adapter)
        held_out = self.labeled_rollouts("held_out", settings.held_out_per_step, adapter)
        unlabeled, questions = self.unlabeled_rollouts(adapter)
        self.window = [*self.window, held_out][-WINDOW:]
        report = em_step(
            self.networks,
            labeled=[self.collate(rows) for rows in (labeled, *self.replay)],
            unlabeled=self.collate(unlabeled),
            held_out=self.collate(self._recent_held_out()),
            settings=settings,
        )
        reach("m_step", settings.failpoint)
        self.replay = [labeled, *self.replay][: settings.replay_batches]
        self.progress.e_steps += 1
        self.progress.m_steps += int(report.refined)
        return report, questions

    def commit(
        self, job_id: str, position: int, *, metrics: Mapping[str, Any], questions: list[Question]
    ) -> None:
        """Make an iteration count: checkpoint first, then one fenced transaction."""
        name, parent = f"{job_id}-{position}", self._went_on_from
        root = self.world.settings.checkpoints_dir
        before = checkpoint.names(root)
        self.save(name)
        row = Iteration(
            job_id=job_id,
            position=position,
            checkpoint=name,
            parent=parent,
            question_ids=[question.id for question in questions],
            metrics=dict(metrics),
            epoch=self.world.epoch(),
        )
        with ledger.leases.fenced(self.world.sessions, row.epoch) as s:
            s.add(row)
            s.flush()
            ledger.jobs.reset_attempts(s, job_id)
            ledger.lineage.record(s, row.number, questions if metrics.get("m_steps") else [])
            needed = {name, *ledger.jobs.needed_checkpoints(s)}
        checkpoint.remove(root, before - needed)  # nothing of a successor's, had we slept

    # Rollouts ------------------------------------------------------------------------------------

    @phase("publish")
    def publish_trial(self) -> str:
        """Publish the policy as it stands under a name of its own, and return the name."""
        if self.progress.m_steps == 0:
            return version_name(0)
        return self.world.store.publish_trial(self.networks.policy.export, base=self.world.base)

    @phase("sample")
    def labeled_rollouts(self, split: str, count: int, adapter: str) -> list[Rollout]:
        """Return rollouts of the next labeled questions of a split, with their outcomes."""
        with self.world.sessions() as s:
            drawn = self._draw(split, ledger.labeled.examples(s, split), count)
        n, number = self.world.settings.group_size, self._draw_number()
        prompts, groups, verdicts = self.judged(drawn, adapter, n=n, draw=number)
        outcomes = [[verdict.outcome for verdict in row] for row in verdicts]
        return rollouts_of(prompts, groups, adapter, outcomes)

    @phase("sample")
    def unlabeled_rollouts(self, adapter: str) -> tuple[list[Rollout], list[Question]]:
        """Return rollouts of the next captured questions, and the questions."""
        with self.world.sessions() as s:
            hashes = ledger.pool.distinct_hashes(s)
            count = self.world.settings.unlabeled_per_step
            drawn = ledger.pool.questions(s, self._draw("unlabeled", hashes, count))
        prompts = self.world.sampler.prompts(drawn)
        n, number = self.world.settings.group_size, self._draw_number()
        groups = self.world.rollouts.sample(prompts, adapter=adapter, n=n, draw=number)
        sampled = {p.question_id for p in prompts}
        asked = [q for q in drawn if q.content_hash in sampled]
        return rollouts_of(prompts, groups, adapter, None), asked

    def judged(
        self,
        examples: Sequence[LabeledExample],
        adapter: str,
        *,
        n: int,
        draw: int | None = None,
    ) -> tuple[list[Prompt], list[list[Sample]], list[list[Verdict]]]:
        """Sample `n` responses to each labeled question; return them with their verdicts.

        Only a numbered draw, as training makes them, may be replayed: what compares versions must
        hear each of them.
        """
        prompts = self.world.sampler.prompts(examples)
        if draw is None:
            groups = self.world.sampler.sample(prompts, adapter=adapter, n=n)
        else:
            groups = self.world.rollouts.sample(prompts, adapter=adapter, n=n, draw=draw)
        known = {example.content_hash: example for example in examples}
        asked = [known[prompt.question_id] for prompt in prompts]
        items = [
            Item(example.verifier, sample.text, example.reference, example.details)
            for example, group in zip(asked, groups, strict=True)
            for sample in group
        ]
        found = self.world.verifiers.verify(items)
        # A version on whose responses a verifier hangs is wrong: the gate and the sentinel see it.
        if draw is not None or adapter == version_name(0):
            refuse_failing(found)
        verdicts = iter(found)
        return prompts, groups, [[next(verdicts) for _ in group] for group in groups]

    def collate(self, rollouts: Sequence[Rollout]) -> Batch:
        """Return rollouts as padded tensors."""
        return Batch.collate(rollouts, self.networks.pad_id)

    def _recent_held_out(self) -> list[Rollout]:
        """Return the window's rollouts; groups of different iterations must not be joined."""
        apart = self.world.settings.held_out_per_step
        numbered = enumerate(self.window)
        return [replace(r, group=r.group + i * apart) for i, rows in numbered for r in rows]

    def _draw(self, deck: str, items: Sequence[Any], count: int) -> list[Any]:
        settings, start = self.world.settings, self.progress.drawn[deck]
        drawn = draw(items, count, start=start, seed=settings.seed)
        self.progress.drawn[deck] += len(drawn)
        return drawn

    def _draw_number(self) -> int:
        return (self.world.settings.seed << 20) + sum(self.progress.drawn.values())


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
