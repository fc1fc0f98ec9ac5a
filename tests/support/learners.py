"""The trainer's parts on a ledger in a temporary directory: a tiny model, no server.

def test_x(tmp_path, sessions):
    parts = Parts(sessions, tmp_path)                   # holds the lease
    job = parts.job("a")                                # a claimed round
    job.commit(parts.learner, 1, {}, refined=True)
    parts.rounds.run(job)                               # with parts.responses, which a test scripts
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import tiny
from ledgers import hold_lease
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.ledger.models import LabeledExample, Question
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.jobs.rounds import Rounds
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.learning.learner import Learner
from tempo_trainer.sampling.responses import Rollouts, VerifiedResponses
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.answers import AnswerBook, draw_answers
from tempo_trainer.versions.publishing import Publisher
from tempo_trainer.worker_settings import WorkerSettings

HELD_OUT = 24  # questions with right and wrong responses: as many as measure a critic


def rollout(
    question: str = "q", *, group: int = 0, outcome: float = 1.0, token: int = 4
) -> Rollout:
    """Return a labeled rollout of two response tokens."""
    return Rollout(question, [2, 3], [token, 5], [-1.0, -1.0], group, "stop", True, outcome)


def luck(content_hash: str, position: int) -> float:
    """Return a number from 0 to 1 that is always the same for a question and a position."""
    digest = hashlib.sha256(f"{content_hash} {position}".encode()).hexdigest()
    return int(digest[:8], 16) / 2**32


@dataclass
class ScriptedResponses:
    """Stands for the served adapters: `skill` is the share of right responses by adapter."""

    skill: dict[str, float] = field(default_factory=dict)
    meanwhile: Callable[[], object] = lambda: None
    """Called before each request."""
    too_long: Iterable[str] = ()
    """Hashes of questions that leave no room for a response."""
    adapters: list[str] = field(default_factory=list)
    """The adapters that were asked, one for each request."""
    requests: list[tuple[str, int, Decoding]] = field(default_factory=list)
    """Adapter, responses to each question and decoding of each request for held-out answers."""
    default_decoding: Decoding = PLAIN
    hashes: set[str] = field(default_factory=set)
    """The held-out questions that were asked."""
    questions: list[Question] = field(default_factory=list)
    """The captured questions that each iteration draws."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Counts of questions without a usable response; if there are any, no rollout is returned."""

    def fitting(self, examples: Sequence[LabeledExample]) -> list[LabeledExample]:
        """Return the labeled questions that are not too long."""
        return [e for e in examples if e.content_hash not in self.too_long]

    def sample_and_verify(
        self,
        examples: Sequence[LabeledExample],
        adapter: str,
        *,
        n: int,
        decoding: Decoding = PLAIN,
    ) -> VerifiedResponses:
        """Return responses of three tokens; which of them are right differs over questions.

        It depends on the question, the position of the response and the adapter's skill. So a
        better adapter is right wherever a worse one is.
        """
        self.meanwhile()
        self.adapters.append(adapter)
        self.requests.append((adapter, n, decoding))
        hashes = [example.content_hash for example in self.fitting(examples)]
        self.hashes.update(hashes)
        skill = self.skill.get(adapter, 0.5)
        verdicts = []
        for name in hashes:
            right = [luck(name, position) < skill for position in range(n)]
            verdicts.append(
                [Verdict(is_right, name if is_right else "wrong") for is_right in right]
            )
        samples = [Sample((1, 2, 3), (0.0,) * 3, "", "stop")] * n
        prompts = [Prompt(name, (1,)) for name in hashes]
        return VerifiedResponses(prompts, [samples] * len(hashes), verdicts)

    def labeled_rollouts(self, split: str, count: int, adapter: str) -> Rollouts:
        """Return a right and a wrong rollout of one question, and of each held-out one."""
        self.meanwhile()
        self.adapters.append(adapter)
        if self.left_out:
            return Rollouts([], tokens=0, **self.left_out)
        questions = HELD_OUT if split == "held_out" else 1
        rollouts = [
            rollout(f"q{group}", group=group, outcome=outcome, token=token)
            for group in range(questions)
            for outcome, token in ((1.0, 4), (-1.0, 7))
        ]
        return Rollouts(rollouts, tokens=2 * len(rollouts))

    def unlabeled_rollouts(self, count: int, adapter: str) -> Rollouts:
        """Return the same rollouts of the first question of the script."""
        draw = self.labeled_rollouts("unlabeled", count, adapter)
        named = [
            replace(row, content_hash=q.content_hash)
            for row in draw.rollouts
            for q in self.questions[:1]
        ]
        return replace(draw, rollouts=named or draw.rollouts, questions=self.questions)

    def take_held_back(self) -> float:
        """Return no seconds."""
        return 0.0


class Parts:
    """The parts of one worker, which holds the lease."""

    def __init__(self, sessions: sessionmaker[Session], directory: Path, **settings: Any) -> None:
        small = {"lora_rank": 2, "critic_rank": 2, "device": "cpu", "data_dir": directory}
        self.settings = WorkerSettings(**(small | settings))
        self.sessions = sessions
        self.epoch = hold_lease(sessions)
        self.leased = LeasedSessions(sessions, lambda: self.epoch)
        self.stops = False
        self.store = AdapterStore(self.settings.adapters_dir)
        self.responses = ScriptedResponses()

    @cached_property
    def learner(self) -> Learner:
        return Learner(tiny.networks(lora_rank=2, critic_rank=2), self.settings)

    @cached_property
    def book(self) -> AnswerBook:
        return AnswerBook(partial(draw_answers, self.responses))

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.settings, self.leased, self.store, "tiny")

    @property
    def rounds(self) -> Rounds:
        return Rounds(self.settings, self.learner, self.responses, self.publisher, self.book)

    def job(self, id: str, mode: str = "round", **options: Any) -> RunningJob:
        """Queue a job and claim it."""
        with self.sessions.begin() as s:
            row = ledger.jobs.create(s, id, mode, options)
            row.status = "running"
            row.started_at = time.time()
            row.serving_sequence = ledger.versions.serving(s).sequence
        return RunningJob(row, self.leased, lambda: self.stops)

    def claimed_again(self, job: RunningJob) -> RunningJob:
        """Return a job as another worker claims it."""
        with self.sessions() as s:
            return RunningJob(ledger.jobs.get(s, job.id), self.leased, lambda: self.stops)
