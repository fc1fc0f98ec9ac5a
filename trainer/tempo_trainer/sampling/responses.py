"""Draw questions, sample responses of an adapter to them from vLLM, and verify the responses."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Self

from tempo_storage import ledger
from tempo_storage.adapters import BASE_NAME
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.ledger.models import LabeledExample, Question
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.clock import phase
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.sampling.sampler import Prompt, Sample, Sampler, SamplingError
from tempo_trainer.sampling.verifier_pool import Item, VerifierPool, raise_if_failed
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker_settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class VerifiedResponses:
    """Prompts, the responses to each, and the verdict on each response, in the same order."""

    prompts: Sequence[Prompt]
    samples: Sequence[Sequence[Sample]]
    verdicts: Sequence[Sequence[Verdict]]

    @property
    def outcomes(self) -> list[list[float]]:
        """-1 (wrong) or +1 (right) for each response, by prompt."""
        return [[verdict.outcome for verdict in row] for row in self.verdicts]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Questions drawn at once, and the rollouts that an iteration may learn from or measure by."""

    rollouts: list[Rollout]
    tokens: int
    """Response tokens that were sampled, those of left-out questions included."""
    too_long: int = 0
    """Questions left out because they leave no room for a response, or vLLM refuses them."""
    all_truncated: int = 0
    """Questions left out because every response to them was cut at the length limit."""
    questions: Sequence[Question] = ()
    """All captured questions that were drawn; of labeled ones none are listed."""

    @classmethod
    def of(
        cls,
        rollouts: Sequence[Rollout],
        *,
        too_long: int,
        cut: AbstractSet[str],
        questions: Sequence[Question] = (),
    ) -> Self:
        """Return a draw without the rollouts of questions whose content hash is in `cut`."""
        return cls(
            rollouts=[rollout for rollout in rollouts if rollout.content_hash not in cut],
            tokens=sum(len(rollout.response_ids) for rollout in rollouts),
            too_long=too_long,
            all_truncated=len(cut),
            questions=questions,
        )

    def figures(self) -> dict[str, int]:
        """Return the counts under the names of the metrics."""
        return {
            "rollouts/tokens": self.tokens,
            "rollouts/too_long": self.too_long,
            "rollouts/all_truncated": self.all_truncated,
        }

    @property
    def learned(self) -> list[Question]:
        """The captured questions that have a rollout."""
        hashes = {rollout.content_hash for rollout in self.rollouts}
        return [question for question in self.questions if question.content_hash in hashes]


@dataclass(frozen=True, slots=True)
class ResponseSource:
    """Asks the served adapters the questions of the ledger."""

    settings: WorkerSettings
    sessions: LeasedSessions
    decks: Decks
    """The decks of labeled questions. The learner owns them and saves their positions; this class
    draws from them."""
    sampler: Sampler
    verifiers: VerifierPool
    default_decoding: Decoding = PLAIN
    """The server's decoding for a request that does not set its own."""

    def close(self) -> None:
        """Close the connections and end the verifiers."""
        self.sampler.close()
        self.verifiers.close()

    @phase("sample")
    def labeled_rollouts(self, split: str, count: int, adapter: str) -> Rollouts:
        """Return rollouts of the next `count` labeled questions of a split, with their outcomes.

        A question of `train` is left out if all responses to it are truncated. A held-out one
        stays, or the critic would be measured on easier questions. Raises VerifierError if
        verifiers failed on most responses.
        """
        with self.sessions.read() as s:
            examples = ledger.labeled.examples(s, split)
        examples = self.decks.draw(split, examples, count, seed=self.settings.seed)
        responses = self.sample_and_verify(examples, adapter, n=self.settings.group_size)
        raise_if_failed([verdict for row in responses.verdicts for verdict in row])
        rollouts = rollouts_of(responses.prompts, responses.samples, adapter, responses.outcomes)
        cut = truncated_hashes(rollouts) if split == "train" else set()
        return Rollouts.of(rollouts, too_long=len(examples) - len(responses.prompts), cut=cut)

    @phase("sample")
    def unlabeled_rollouts(self, count: int, adapter: str) -> Rollouts:
        """Return rollouts of the `count` captured questions that come next, new ones first.

        A question is left out if all responses to it are truncated: none of them is an answer.
        """
        with self.sessions.read() as s:
            questions = ledger.pool.next_questions(s, count)
        prompts = self.sampler.prompts(questions)
        samples = self.sampler.sample(prompts, adapter=adapter, n=self.settings.group_size)
        rollouts = rollouts_of(prompts, samples, adapter, None)
        cut = truncated_hashes(rollouts)
        too_long = len(questions) - len(prompts)
        return Rollouts.of(rollouts, too_long=too_long, cut=cut, questions=questions)

    def sample_and_verify(
        self,
        examples: Sequence[LabeledExample],
        adapter: str,
        *,
        n: int,
        decoding: Decoding = PLAIN,
    ) -> VerifiedResponses:
        """Sample `n` responses to each labeled question and verify them.

        A question that is too long for a response is left out. Raises VerifierError if verifiers
        failed on most responses of the base. If they failed on those of an adapter, the responses
        may be at fault: each counts as wrong.
        """
        prompts = self.sampler.prompts(examples)
        samples = self.sampler.sample(prompts, adapter=adapter, n=n, decoding=decoding)
        by_hash = {example.content_hash: example for example in examples}
        rows = [by_hash[prompt.content_hash] for prompt in prompts]
        items = [
            Item(example.verifier, sample.text, example.reference, example.details)
            for example, group in zip(rows, samples, strict=True)
            for sample in group
        ]
        verdicts = self.verifiers.verify(items)
        if adapter == BASE_NAME:
            raise_if_failed(verdicts)
        remaining = iter(verdicts)
        by_prompt = [[next(remaining) for _ in group] for group in samples]
        return VerifiedResponses(prompts, samples, by_prompt)

    def fitting(self, examples: Sequence[LabeledExample]) -> list[LabeledExample]:
        """Return the labeled questions that leave room for a response."""
        fitting = {prompt.content_hash for prompt in self.sampler.prompts(examples)}
        return [example for example in examples if example.content_hash in fitting]

    def take_held_back(self) -> float:
        """Return how long requests waited for users' requests since the last call, in seconds."""
        return self.sampler.take_held_back()


def rollouts_of(
    prompts: Sequence[Prompt],
    samples: Sequence[Sequence[Sample]],
    adapter: str,
    outcomes: Sequence[Sequence[float]] | None,
) -> list[Rollout]:
    """Return the responses of `adapter` as rollouts, except empty and aborted ones.

    Without outcomes they are unlabeled. Raises SamplingError, after which the job is tried again,
    if responses were sampled and none is left.
    """
    rollouts = [
        Rollout(
            content_hash=prompt.content_hash,
            prompt_ids=prompt.ids,
            response_ids=sample.ids,
            logprobs=sample.logprobs,
            group=index,
            finish_reason=sample.finish_reason,
            labeled=outcomes is not None,
            outcome=math.nan if outcomes is None else outcomes[index][member],
        )
        for index, (prompt, group) in enumerate(zip(prompts, samples, strict=True))
        for member, sample in enumerate(group)
        if sample.ids and sample.finish_reason != "abort"
    ]
    if not rollouts and (count := sum(map(len, samples))):
        raise SamplingError(f"{adapter}: each of {count} responses was aborted or empty")
    return rollouts


def truncated_hashes(rollouts: Sequence[Rollout]) -> set[str]:
    """Return the content hashes of questions whose rollouts were all cut at the length limit."""
    finished = {r.content_hash for r in rollouts if r.finish_reason != "length"}
    return {rollout.content_hash for rollout in rollouts} - finished
