"""One run's networks, questions and counters: all that a method may touch.

Hidden answers are not here, unless the method is the oracle: what a method cannot reach, it cannot
learn from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from pkgutil import resolve_name
from typing import Any, Literal

from tempo_lab.study.questions import Answers, Data, Question, QuestionSet
from tempo_lab.study.sampling import LocalSampler, seed_of
from tempo_lab.study.served import ServedSampler
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.learning.learner import DECKS, WINDOW
from tempo_trainer.sampling.deck import draw
from tempo_trainer.sampling.sampler import Prompt, Sample, rollouts_of
from tempo_trainer.sampling.verifier_pool import Item, VerifierPool, refuse_failing
from tempo_trainer.sampling.verifiers import Verdict, answer
from tempo_trainer.settings import TrainerSettings
from tempo_trainer.worker_settings import WorkerSettings

Honest = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that decides a run."""

    method: str
    seed: int
    model: str
    labeled: str
    unlabeled: str
    unseen: str = ""
    name: str = ""
    """What the summary calls it; empty: the method."""
    iterations: int = 200
    measure_every: int = 20
    samples: int = 8
    """Responses to each question when measuring."""
    save_every: int = 20
    recalibrate_every: int = 1
    """Iterations from one E-step to the next; 0: none after the warm-up."""
    honest: str = ""
    """`module:function` of question and response: is it honest work, right or wrong?"""
    sampler: Literal["local", "vllm"] = "local"
    """Where responses are sampled: in the run's own process, or by the server of the model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Differences from the trainer's settings."""

    @property
    def arm(self) -> str:
        """The name in the summary."""
        return self.name or self.method

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.arm.replace(' ', '-')}-{self.seed}"

    def trainer_settings(self) -> TrainerSettings:
        """Return the product's settings, TEMPO_ variables included, with this run's differences."""
        return TrainerSettings(**{"seed": self.seed, **self.settings})

    def worker_settings(self) -> WorkerSettings:
        """Return the same settings with where the server is and how much it may be asked."""
        return WorkerSettings(**{"seed": self.seed, **self.settings})


@dataclass(frozen=True, slots=True)
class Drawn:
    """Questions with the responses that were sampled to each."""

    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    samples: Sequence[Sequence[Sample]]


class Judge:
    """The product's verifiers; what they said once of a response they are not asked again."""

    def __init__(self, pool: VerifierPool) -> None:
        self._pool = pool
        self._known: dict[tuple[str, str, bool], Verdict] = {}

    def outcomes(self, drawn: Drawn, answers: Answers) -> list[list[float]]:
        """Return -1 or +1 for each response."""
        return [[verdict.outcome for verdict in row] for row in self._verdicts(drawn, answers)]

    def answers(self, drawn: Drawn) -> list[list[str]]:
        """Return what each response answers, without any reference; empty for no answer.

        Where a verifier reads no answer without a reference (countdown, which has many right ones),
        the boxed answer or the last line stands for it: there, all of the derivation.
        """
        pairs = zip(drawn.samples, self._verdicts(drawn, {}), strict=True)
        return [
            [
                answer(s.text) if v.extracted is None else v.extracted
                for s, v in zip(*pair, strict=True)
            ]
            for pair in pairs
        ]

    def _verdicts(self, drawn: Drawn, answers: Answers) -> list[list[Verdict]]:
        keys = [
            [(question.id, sample.text, question.id in answers) for sample in samples]
            for question, samples in zip(drawn.questions, drawn.samples, strict=True)
        ]
        asked = {
            key: Item(q.verifier, key[1], answers.get(q.id, ()), q.metadata)
            for q, row in zip(drawn.questions, keys, strict=True)
            for key in row
            if key not in self._known
        }
        found = self._pool.verify(list(asked.values()))
        if answers:
            refuse_failing(found)
        self._known |= zip(asked, found, strict=True)
        return [[self._known[key] for key in row] for row in keys]


class Lab:
    """Draws questions, samples the policy, and keeps what an iteration leaves to the next."""

    def __init__(self, spec: Spec, data: Data, pool: VerifierPool) -> None:
        self.settings, self.recalibrate_every = spec.trainer_settings(), spec.recalibrate_every
        self.networks = Networks.load(spec.model, self.settings)
        self.sampler = _sampler(spec, self.networks)
        self.judge = Judge(pool)
        self.honest: Honest | None = resolve_name(spec.honest) if spec.honest else None
        self.hidden = data.unlabeled.answers if spec.method == "oracle" else {}
        asked = QuestionSet(data.unlabeled.questions, {})
        self._sets = dict(zip(DECKS, (data.train, data.held_out, asked), strict=True))
        self.counters = dict.fromkeys(("iteration", "sampled", *DECKS), 0)
        self.replay: list[Batch] = []
        self.window: list[Batch] = []
        self._prompts: dict[str, Prompt] = {}

    def close(self) -> None:
        """Let go of the server, if there is one."""
        self.sampler.close()

    @property
    def iteration(self) -> int:
        """Iterations that have ended."""
        return self.counters["iteration"]

    @property
    def budget(self) -> int:
        """Questions that every method samples responses to in an iteration."""
        s = self.settings
        return s.labeled_per_step + s.unlabeled_per_step + s.held_out_per_step

    def labeled(self, count: int, *, deck: str = "train") -> Batch:
        """Return rollouts of the next labeled questions, with their outcomes."""
        drawn = self.draw(deck, count)
        return self.batch(drawn, self.judge.outcomes(drawn, self._sets[deck].answers))

    def judging(self) -> Batch:
        """Return rollouts of held-out questions: this iteration's and those of a few before it."""
        fresh = self.labeled(self.settings.held_out_per_step, deck="held_out")
        self.window = [*self.window, fresh][-WINDOW:]
        return reduce(Batch.concatenate, self.window)

    def draw(self, deck: str, count: int) -> Drawn:
        """Sample responses to the next questions of a deck."""
        start, s = self.counters[deck], self.settings
        questions = draw(self._sets[deck].questions, count, start=start, seed=s.seed)
        self.counters[deck] += len(questions)
        self.counters["sampled"] += len(questions) * s.group_size
        return self.respond(questions, s.group_size, seed_of(s.seed, deck, start))

    def respond(self, questions: Sequence[Question], n: int, seed: int) -> Drawn:
        """Sample `n` responses to each question from the policy as it stands."""
        for q in questions:
            if q.id not in self._prompts:
                self._prompts[q.id] = self.sampler.prompt(q.id, q.messages)
        prompts = [self._prompts[q.id] for q in questions]
        return Drawn(questions, prompts, self.sampler.sample(prompts, n=n, seed=seed))

    def batch(self, drawn: Drawn, outcomes: Sequence[Sequence[float]] | None = None) -> Batch:
        """Return responses as padded tensors, row by row; without outcomes they are unlabeled."""
        rollouts = rollouts_of(drawn.prompts, drawn.samples, "", outcomes)
        return Batch.collate(rollouts, self.networks.pad_id)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on as if it had not stopped."""
        kept = {"replay": self.replay, "window": self.window}
        names = [f.name for f in fields(Batch)]
        return {"networks": self.networks.state_dict(), "counters": dict(self.counters)} | {
            name: [{n: getattr(batch, n) for n in names} for batch in batches]
            for name, batches in kept.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.networks.load_state_dict(state["networks"])
        self.counters = state["counters"]
        self.replay = [Batch(**tensors) for tensors in state["replay"]]
        self.window = [Batch(**tensors) for tensors in state["window"]]


def _sampler(spec: Spec, networks: Networks) -> LocalSampler | ServedSampler:
    if spec.sampler == "vllm":
        return ServedSampler.connect(networks, spec.model, spec.worker_settings())
    length = spec.trainer_settings().max_response_tokens
    return LocalSampler(networks, spec.model, max_tokens=length)
