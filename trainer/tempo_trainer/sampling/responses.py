"""Draw questions, sample responses of an adapter to them from vLLM, and verify the responses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tempo_storage import ledger
from tempo_storage.adapters import BASE_NAME
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
class ResponseSource:
    """Asks the served adapters the questions of the ledger."""

    settings: WorkerSettings
    sessions: LeasedSessions
    decks: Decks
    """The learner owns these decks and saves their positions; this class draws from them."""
    sampler: Sampler
    verifiers: VerifierPool

    def close(self) -> None:
        """Close the connections and end the verifiers."""
        self.sampler.close()
        self.verifiers.close()

    @phase("sample")
    def labeled_rollouts(self, split: str, count: int, adapter: str) -> list[Rollout]:
        """Return rollouts of the next `count` labeled questions of a split, with their outcomes.

        Raises VerifierError if verifiers failed on most responses.
        """
        with self.sessions.read() as s:
            examples = ledger.labeled.examples(s, split)
        examples = self.decks.draw(split, examples, count, seed=self.settings.seed)
        responses = self.sample_and_verify(examples, adapter, n=self.settings.group_size)
        raise_if_failed([verdict for row in responses.verdicts for verdict in row])
        return rollouts_of(responses.prompts, responses.samples, adapter, responses.outcomes)

    @phase("sample")
    def unlabeled_rollouts(self, count: int, adapter: str) -> tuple[list[Rollout], list[Question]]:
        """Return rollouts of the next `count` captured questions, and these questions."""
        with self.sessions.read() as s:
            hashes = ledger.pool.distinct_hashes(s)
            hashes = self.decks.draw("unlabeled", hashes, count, seed=self.settings.seed)
            questions = ledger.pool.questions(s, hashes)
        prompts = self.sampler.prompts(questions)
        samples = self.sampler.sample(prompts, adapter=adapter, n=self.settings.group_size)
        fitting = {prompt.content_hash for prompt in prompts}
        questions = [question for question in questions if question.content_hash in fitting]
        return rollouts_of(prompts, samples, adapter, None), questions

    def sample_and_verify(
        self, examples: Sequence[LabeledExample], adapter: str, *, n: int
    ) -> VerifiedResponses:
        """Sample `n` responses to each labeled question and verify them.

        A question that is too long for a response is left out. Raises VerifierError if verifiers
        failed on most responses of the base. If they failed on those of an adapter, the responses
        may be at fault: each counts as wrong.
        """
        prompts = self.sampler.prompts(examples)
        samples = self.sampler.sample(prompts, adapter=adapter, n=n)
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
