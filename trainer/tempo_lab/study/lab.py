"""One run's networks, questions and counters: all that a method may use.

Hidden answers are not here, except for the oracle. A method cannot learn from answers that it
cannot reach.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from pkgutil import resolve_name
from typing import Any, Literal, cast

from torch import Tensor

from tempo_lab.study.critics import TwoCritics
from tempo_lab.study.questions import Answers, Data, Question, QuestionSet
from tempo_lab.study.sampling import LocalSampler, reference_sample, seed_of
from tempo_lab.study.served import ServedSampler
from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.algorithm import within
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.networks import Critic, Networks
from tempo_trainer.learning.learner import WINDOW
from tempo_trainer.sampling.deck import DECKS, draw
from tempo_trainer.sampling.responses import rollouts_of
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.sampling.verifier_pool import Item, VerifierPool, raise_if_failed
from tempo_trainer.sampling.verifiers import Verdict, answer
from tempo_trainer.worker_settings import WorkerSettings

SAMPLERS: Mapping[str, Callable[[Networks, str, WorkerSettings], LocalSampler | ServedSampler]]
OTHER_SEED = 1_000_003  # apart from the seeds of other runs
SAMPLERS = {"local": LocalSampler, "vllm": ServedSampler.connect}
IsHonest = Callable[[str, str], bool]
"""Whether a response (second) to a question (first) is honest work, right or wrong."""


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
    """Name in the summary; empty: the method."""
    iterations: int = 200
    measure_every: int = 20
    samples: int = 16
    """Responses to each question in a measurement, for each way to draw tokens that is random."""
    users: Decoding = PLAIN
    """How the users draw tokens; measurements also use it, rollouts do not."""
    save_every: int = 20
    recalibrate_every: int = 1
    """Iterations from one E-step to the next; 0: none after the warm-up."""
    disagreement: float | None = None
    """λ of two critics on split responses, R = mean − λ |V₁ − V₂|; None: one critic."""
    pass_k: int = 0
    """k of the pass@k advantages of labeled rows in the policy's loss; 0: the product's own."""
    flip_at: int = 0
    """Iterations after which the unlabeled reward has the wrong sign; 0: never."""
    gate: bool = False
    """Whether the gate tests each round, so that the version that serves is measured."""
    honest: str = ""
    """`module:function` of an IsHonest; empty: the study does not measure honest work."""
    sampler: Literal["local", "vllm"] = "local"
    """Where responses are sampled: in the run's own process, or by the server of the model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Differences from the worker's settings."""

    @property
    def arm(self) -> str:
        """The name in the summary."""
        return self.name or self.method

    @property
    def stem(self) -> str:
        """The name of the run's files, without a suffix."""
        return f"{self.arm.replace(' ', '-')}-{self.seed}"

    @property
    def is_product(self) -> bool:
        """Whether an iteration of `tempo` is exactly the product's own."""
        return self.disagreement is None and not self.pass_k and not self.flip_at

    def worker_settings(self) -> WorkerSettings:
        """Return the product's settings, TEMPO_ variables included, with this run's differences."""
        return WorkerSettings(**{"seed": self.seed, **self.settings})


@dataclass(frozen=True, slots=True)
class Responses:
    """Questions, each with its prompt and with the responses that were sampled to it."""

    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    samples: Sequence[Sequence[Sample]]


class CachedVerifiers:
    """The product's verifiers, which verify equal responses to a question once."""

    def __init__(self, pool: VerifierPool) -> None:
        self._pool = pool
        self._cache: dict[tuple[str, str, bool], Verdict] = {}

    def parses(self, responses: Responses) -> list[list[bool]]:
        """Tell for each response whether its verifier reads an answer in it."""
        return [
            [bool(verdict.extracted) for verdict in row] for row in self._verdicts(responses, {})
        ]

    def outcomes(self, responses: Responses, answers: Answers) -> list[list[float]]:
        """Return -1 or +1 for each response.

        Raises VerifierError if the verifiers fail on most responses.
        """
        return [[verdict.outcome for verdict in row] for row in self._verdicts(responses, answers)]

    def answers(self, responses: Responses) -> list[list[str]]:
        """Return the answer of each response, read without a reference; empty for no answer.

        If a verifier reads no answer without a reference, the boxed answer or the last line counts.
        On countdown, which has many right answers, that is the whole derivation.
        """
        pairs = zip(responses.samples, self._verdicts(responses, {}), strict=True)
        return [list(map(_answer_of, samples, verdicts)) for samples, verdicts in pairs]

    def _verdicts(self, responses: Responses, answers: Answers) -> list[list[Verdict]]:
        # A verdict without a reference says only what the answer is, so it has a key of its own.
        keys = [
            [(question.id, sample.text, question.id in answers) for sample in samples]
            for question, samples in zip(responses.questions, responses.samples, strict=True)
        ]
        missing = {
            key: Item(question.verifier, key[1], answers.get(question.id, ()), question.metadata)
            for question, row in zip(responses.questions, keys, strict=True)
            for key in row
            if key not in self._cache
        }
        verdicts = self._pool.verify(list(missing.values()))
        if answers:
            raise_if_failed(verdicts)
        self._cache |= zip(missing, verdicts, strict=True)
        return [[self._cache[key] for key in row] for row in keys]


class Lab:
    """Draws questions, samples the policy, and keeps the state from iteration to iteration."""

    def __init__(self, spec: Spec, data: Data, pool: VerifierPool) -> None:
        self.spec = spec
        self.settings = spec.worker_settings()
        self.networks = Networks.load(spec.model, self.settings)
        self.critics = [self.networks.critic]
        self.critic = self.networks.critic
        self.two_critics: TwoCritics | None = None
        self._others: list[Networks] = []
        if spec.disagreement is not None:
            # A base of its own, because two heads on one adapter would hardly differ.
            other = self.settings.model_copy(update={"seed": self.settings.seed + OTHER_SEED})
            self._others = [Networks.load(spec.model, other)]
            self.critics.append(self._others[0].critic)
            self.two_critics = TwoCritics(*self.critics, weight=spec.disagreement)
            self.critic = cast(Critic, self.two_critics)  # it gives values, and never learns itself
        self._model = spec.model
        self.sampler = SAMPLERS[spec.sampler](self.networks, spec.model, self.settings)
        self.verifiers = CachedVerifiers(pool)
        self.is_honest: IsHonest | None = resolve_name(spec.honest) if spec.honest else None
        self.hidden_answers = data.unlabeled.answers if spec.method == "oracle" else {}
        unlabeled = QuestionSet(data.unlabeled.questions, {})
        self._decks = dict(zip(DECKS, (data.train, data.held_out, unlabeled), strict=True))
        self.counters = dict.fromkeys(("iteration", "sampled", "one_label", *DECKS), 0)
        self.replay: list[Batch] = []
        self.window: list[Batch] = []
        self.memory: dict[str, Any] = {}
        """Numbers, lists and tensors that a method keeps from iteration to iteration."""
        self._prompts: dict[str, Prompt] = {}

    def close(self) -> None:
        """Close the connections to the server, if there are any."""
        self.sampler.close()

    @property
    def iteration(self) -> int:
        """Number of iterations that have ended."""
        return self.counters["iteration"]

    @property
    def step_settings(self) -> WorkerSettings:
        """The settings of this iteration: from `flip_at` on the reward has the wrong sign."""
        flip_at = self.spec.flip_at
        is_flipped = 0 < flip_at <= self.iteration
        return self.settings.model_copy(update={"reward_sign": -1}) if is_flipped else self.settings

    @property
    def held_out(self) -> QuestionSet:
        """The labeled questions on which nothing trains."""
        return self._decks["held_out"]

    @property
    def labeled_share(self) -> float:
        """Share of the labeled questions among all that a method may train on."""
        labeled = len(self._decks["train"].questions)
        return labeled / (labeled + len(self._decks["unlabeled"].questions))

    @property
    def budget(self) -> int:
        """Number of questions to which every method samples responses in an iteration."""
        s = self.settings
        return s.labeled_per_step + s.unlabeled_per_step + s.held_out_per_step

    def labeled(self, count: int, *, deck: str = "train") -> Batch:
        """Return rollouts of the next labeled questions, with their outcomes."""
        responses = self.sample_next(deck, count)
        outcomes = self.verifiers.outcomes(responses, self._decks[deck].answers)
        return self.batch(responses, outcomes)

    def references(self, count: int) -> Batch:
        """Return the next labeled questions with their solutions, or references, as responses."""
        questions = self._next("train", count)
        answers = self._decks["train"].answers
        texts = [str(q.metadata.get("solution", answers[q.id][0])) for q in questions]
        samples = [[reference_sample(self._model, text)] for text in texts]
        return self.batch(Responses(questions, self._prompts_of(questions), samples))

    def one_labeled(self, count: int) -> Batch:
        """Return `count` rollouts of one labeled question, with their outcomes.

        It is the first one, in the order of the seed, that the base answers both right and wrong.
        """
        answers = self._decks["train"].answers
        while True:
            question = draw(
                self._decks["train"].questions,
                1,
                start=self.counters["one_label"],
                seed=self.settings.seed,
            )
            seed = seed_of(self.settings.seed, "one", self.counters["one_label"], self.iteration)
            responses = self.sample(question, count, seed)
            outcomes = self.verifiers.outcomes(responses, answers)
            is_last = self.counters["one_label"] == len(self._decks["train"].questions) - 1
            if self.iteration or is_last or len(set(outcomes[0])) > 1:
                self.counters["sampled"] += count
                return self.batch(responses, outcomes)
            self.counters["one_label"] += 1

    def held_out_window(self) -> Batch:
        """Return rollouts of held-out questions, as many of the newest iterations as are needed.

        A round draws more of them if too few are mixed. A study does not, so that all methods
        sample the same number of responses.
        """
        fresh = self.labeled(self.settings.held_out_per_step, deck="held_out")
        self.window = [*self.window, fresh][-WINDOW:]
        return reduce(Batch.concatenate, within.newest(self.window, _mixed_draws))

    def sample_next(self, deck: str, count: int) -> Responses:
        """Sample responses to the next questions of a deck."""
        seed = seed_of(self.settings.seed, deck, self.counters[deck])
        questions = self._next(deck, count)
        self.counters["sampled"] += len(questions) * self.settings.group_size
        return self.sample(questions, self.settings.group_size, seed)

    def sample(
        self, questions: Sequence[Question], n: int, seed: int, decoding: Decoding = PLAIN
    ) -> Responses:
        """Sample `n` responses to each question from the policy as it is now."""
        prompts = self._prompts_of(questions)
        samples = self.sampler.sample(prompts, n=n, seed=seed, decoding=decoding)
        return Responses(questions, prompts, samples)

    def _next(self, deck: str, count: int) -> Sequence[Question]:
        """Draw the next questions of a deck."""
        start = self.counters[deck]
        seed = self.settings.seed
        questions = draw(self._decks[deck].questions, count, start=start, seed=seed)
        self.counters[deck] += len(questions)
        return questions

    def _prompts_of(self, questions: Sequence[Question]) -> list[Prompt]:
        for question in questions:
            if question.id not in self._prompts:
                self._prompts[question.id] = self.sampler.prompt(question)
        return [self._prompts[question.id] for question in questions]

    def batch(
        self, responses: Responses, outcomes: Sequence[Sequence[float]] | None = None
    ) -> Batch:
        """Return responses as padded tensors, row by row; without outcomes they are unlabeled."""
        rollouts = rollouts_of(responses.prompts, responses.samples, "", outcomes)
        return Batch.collate(rollouts, self.networks.pad_id)

    def state(self) -> dict[str, Any]:
        """Return everything from which `restore` continues the run bit by bit."""
        return {
            "networks": self.networks.state_dict(),
            "others": [networks.state_dict() for networks in self._others],
            "memory": self.memory,
            "counters": dict(self.counters),
            "replay": [_tensors(batch) for batch in self.replay],
            "window": [_tensors(batch) for batch in self.window],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.networks.load_state_dict(state["networks"])
        for networks, own in zip(self._others, state["others"], strict=True):
            networks.load_state_dict(own)
        self.memory = state["memory"]
        self.counters = state["counters"]
        self.replay = [Batch(**tensors) for tensors in state["replay"]]
        self.window = [Batch(**tensors) for tensors in state["window"]]


def _answer_of(sample: Sample, verdict: Verdict) -> str:
    return answer(sample.text) if verdict.extracted is None else verdict.extracted


def _mixed_draws(batch: Batch) -> int:
    """Return how many groups of the batch were answered both right and wrong."""
    return within.count_mixed(batch.group.tolist(), batch.outcome.tolist())


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {f.name: getattr(batch, f.name) for f in fields(batch)}
