"""Answers of versions to held-out questions: drawn from vLLM, verified, kept for later tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tempo_storage.adapters import BASE, version_name
from tempo_storage.decoding import Decoding
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.algorithm.metrics import (
    Array,
    answer_entropy,
    avg_at_n,
    majority_right,
    pass_at_k,
)
from tempo_trainer.sampling.responses import ResponseSource

PASS_K = 8


@dataclass(frozen=True, slots=True)
class Answers:
    """One version's answers to held-out questions; Q questions, n responses to each."""

    outcomes: Array
    """(Q, n), -1 or +1."""
    texts: Sequence[Sequence[str]]
    """(Q, n): the answer that the verifier read in each response; "" if it read none."""
    lengths: Array
    """(Q, n), in tokens."""
    truncated: Array
    """(Q, n), True where a response reached the token limit."""

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> Self:
        """Return the answers to the questions of all parts, each with n responses."""
        return cls(
            outcomes=np.concatenate([part.outcomes for part in parts]),
            texts=[row for part in parts for row in part.texts],
            lengths=np.concatenate([part.lengths for part in parts]),
            truncated=np.concatenate([part.truncated for part in parts]),
        )

    def extended(self, more: "Answers") -> "Answers":
        """Return these responses and more responses to the same questions."""
        return Answers(
            outcomes=np.concatenate([self.outcomes, more.outcomes], axis=1),
            texts=[[*own, *other] for own, other in zip(self.texts, more.texts, strict=True)],
            lengths=np.concatenate([self.lengths, more.lengths], axis=1),
            truncated=np.concatenate([self.truncated, more.truncated], axis=1),
        )

    def part(self, start: int, n: int) -> "Answers":
        """Return `n` responses to each question, from position `start`."""
        at = slice(start, start + n)
        rows = [row[at] for row in self.texts]
        return Answers(self.outcomes[:, at], rows, self.lengths[:, at], self.truncated[:, at])

    @property
    def accuracy(self) -> Array:
        """Share of right responses for each question, (Q,)."""
        return avg_at_n(self.outcomes)

    @property
    def pass_at_8(self) -> Array:
        """Unbiased pass@8 for each question, (Q,); pass@n where there are fewer responses."""
        return pass_at_k(self.outcomes, min(PASS_K, self.outcomes.shape[1]))

    @property
    def right_texts(self) -> list[str]:
        """The text that was read in each right response; "" counts as none."""
        texts = [text for row in self.texts for text in row]
        pairs = zip(texts, self.outcomes.flat, strict=bool(texts))
        return [text for text, outcome in pairs if text and outcome > 0]

    @property
    def majority(self) -> float:
        """Share of questions whose most common answer is right."""
        pairs = zip(self.texts, self.outcomes, strict=True)
        return float(np.mean([majority_right(row, right.tolist()) for row, right in pairs]))

    @property
    def entropy(self) -> float:
        """Mean answer entropy over questions, in nats."""
        return float(np.mean([answer_entropy(row) for row in self.texts]))


Ask = Callable[[int, Sequence[LabeledExample], int, Decoding], Answers]
"""Version, questions, number of responses to each, decoding → fresh answers."""


def draw_answers(
    responses: ResponseSource,
    version: int,
    examples: Sequence[LabeledExample],
    n: int,
    decoding: Decoding,
) -> Answers:
    """Return a version's `n` fresh answers to each question that is not too long."""
    verified = responses.sample_and_verify(examples, version_name(version), n=n, decoding=decoding)
    shape = (len(verified.samples), n)
    samples = [sample for group in verified.samples for sample in group]
    return Answers(
        outcomes=np.array(verified.outcomes, dtype=float).reshape(shape),
        texts=[[verdict.extracted or "" for verdict in row] for row in verified.verdicts],
        lengths=np.array([len(sample.ids) for sample in samples], dtype=float).reshape(shape),
        truncated=np.array([s.finish_reason == "length" for s in samples], float).reshape(shape),
    )


@dataclass(slots=True)
class AnswerBook:
    """The answers of base and serving version, kept for the next test of a candidate.

    They stay true as long as the questions, the version and the users' decoding stay the same, and
    they are most of the cost of a test. They are forgotten when the worker ends.
    """

    ask: Ask
    """Asks a version for fresh answers."""
    drawn_responses: int = 0
    """Responses that were drawn since `open`; `drawn_tokens` are their tokens."""
    drawn_tokens: int = 0
    _kept: dict[tuple[int, Decoding], Answers] = field(default_factory=dict)
    _asked: tuple[object, ...] = ()
    """Everything on which the kept answers depend, beside the version."""

    def open(
        self, examples: Sequence[LabeledExample], versions: Sequence[int], decoding: Decoding
    ) -> None:
        """Forget all answers but those of `versions` to exactly these questions.

        If the users' `decoding` changed, forget all answers, for nobody asks for the older ones.
        """
        # A replaced answer or verifier makes other verdicts on the same responses.
        labels = [(row.content_hash, row.reference, row.verifier, row.details) for row in examples]
        asked = (decoding, labels)
        if asked != self._asked:
            self._kept = {}
        self._asked = asked
        self.drawn_responses = 0
        self.drawn_tokens = 0
        self._kept = {key: value for key, value in self._kept.items() if key[0] in versions}

    def forget(self, version: int) -> None:
        """Forget a version's answers.

        The answers that promoted a version are better than its average by selection. If it now
        serves, the next test asks it again.
        """
        self._kept = {key: value for key, value in self._kept.items() if key[0] != version}

    def answers(
        self,
        version: int,
        examples: Sequence[LabeledExample],
        decoding: Decoding,
        *,
        start: int,
        n: int,
    ) -> Answers:
        """Return responses `start` to `start + n` of a version; draw those that are missing."""
        kept = self._kept.get((version, decoding))
        count = kept.outcomes.shape[1] if kept else 0
        if count < start + n:
            more = start + n - count
            fresh = self.ask(version, examples, more, decoding)
            self.drawn_responses += fresh.outcomes.size
            self.drawn_tokens += int(fresh.lengths.sum())
            kept = kept.extended(fresh) if kept else fresh
            self._kept[version, decoding] = kept
        assert kept is not None
        return kept.part(start, n)


@dataclass(frozen=True, slots=True)
class Sides:
    """The answers of base, serving version and candidate to the same questions, in one order.

    While the base serves, `serving` is the base's answers.
    """

    base: Answers
    serving: Answers
    candidate: Answers
    base_serves: bool

    @classmethod
    def of(cls, by_version: Mapping[int, Answers], serving: int, candidate: int) -> Self:
        """Return the answers of three versions as the sides of a comparison."""
        return cls(by_version[BASE], by_version[serving], by_version[candidate], serving == BASE)

    def extended(self, more: "Sides") -> "Sides":
        """Return these responses and more responses to the same questions."""
        base = self.base.extended(more.base)
        return Sides(
            base=base,
            serving=base if self.base_serves else self.serving.extended(more.serving),
            candidate=self.candidate.extended(more.candidate),
            base_serves=self.base_serves,
        )

    def rivals(self) -> dict[str, Answers]:
        """Return the answers that the candidate is compared with, by name."""
        base = {"the base": self.base}
        return base if self.base_serves else {"the serving version": self.serving} | base


@dataclass(frozen=True, slots=True)
class Comparison:
    """Draws the answers of base, serving version and candidate to the same questions."""

    book: AnswerBook
    examples: Sequence[LabeledExample]
    serving: int
    candidate: int

    def __call__(self, decoding: Decoding, start: int, n: int) -> Sides:
        """Return responses `start` to `start + n` of each side."""
        versions = sorted({BASE, self.serving, self.candidate})
        by_version = {
            version: self.book.answers(version, self.examples, decoding, start=start, n=n)
            for version in versions
        }
        return Sides.of(by_version, self.serving, self.candidate)


def figures(users: Answers, greedy: Answers, plain: Answers) -> dict[str, float]:
    """Return one version's figures from its answers as users sample, greedy, and at temperature 1.

    Where users sample greedily, majority and pass@8 are those at temperature 1.
    """
    several = users if users.outcomes.shape[1] > 1 else plain
    return {
        "users": float(users.accuracy.mean()),
        "greedy": float(greedy.accuracy.mean()),
        "plain": float(plain.accuracy.mean()),
        "majority": several.majority,
        "pass_at_8": float(several.pass_at_8.mean()),
        "entropy": several.entropy,
        "mean_tokens": float(users.lengths.mean()),
        "truncated": float(users.truncated.mean()),
    }
