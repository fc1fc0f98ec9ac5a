"""Measure a policy, and the critic beside it, on questions whose answers are known.

Nothing here is fed back to training. The measurements' samples have seeds of their own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tempo_lab.study.lab import IsHonest, Lab, Responses
from tempo_lab.study.questions import QuestionSet
from tempo_lab.study.sampling import seed_of
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.algorithm.fitness import measure as measure_critic
from tempo_trainer.algorithm.metrics import (
    answer_entropy,
    avg_at_n,
    majority_right,
    pass_at_k,
)

METRICS = ("greedy", "users", "avg", "pass", "maj", "entropy", "honest")
"""The accuracy greedy, as users draw tokens, and at temperature 1; the others are at 1, too."""
PASS_K = 8
SCALES = (0.4, 0.6, 0.8)
"""Scales of the policy's adapter at the end of a run: policies between the base and the last."""


def measure(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int, users: Decoding, critic: bool
) -> dict[str, Any]:
    """Return METRICS of each set, question by question; entropy is in nats.

    A measurement costs `samples` responses to each question at temperature 1, one greedy response,
    and `samples` more as users draw them. The last ones are left out, with `users`, if users draw
    in one of the other ways. Honest work is measured only if the study defines it. The critic is
    measured on the first set: the adapted questions, if they have answers.
    """
    figures: dict[str, Any] = {}
    for name, questions in sets.items():
        seed = seed_of(lab.settings.seed, "measure", name, lab.iteration)
        responses = lab.sample(questions.questions, samples, seed)
        outcomes = lab.verifiers.outcomes(responses, questions.answers)
        figures[name] = by_question(outcomes, lab.verifiers.answers(responses))
        figures[name]["greedy"] = _accuracy(lab, questions, GREEDY, n=1, seed=seed)
        if has_own_figures(users):
            own_seed = seed_of(seed, "users")
            figures[name]["users"] = _accuracy(lab, questions, users, n=samples, seed=own_seed)
        if lab.is_honest:
            figures[name]["honest"] = honest_shares(responses, lab.is_honest)
        if critic and "critic" not in figures:
            figures["critic"] = _critic_figures(lab, responses, outcomes)
    return figures


def measure_scaled(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int, users: Decoding
) -> dict[str, dict[str, Any]]:
    """Return the same for the policy's adapter at each of SCALES."""
    figures = {}
    for scale in SCALES:
        with lab.networks.policy.scaled(scale):
            figures[str(scale)] = measure(lab, sets, samples=samples, users=users, critic=False)
    return figures


def has_own_figures(users: Decoding) -> bool:
    """Tell whether users draw tokens neither greedily nor from the policy's own distribution."""
    return not users.is_greedy and users != PLAIN


def by_question(
    outcomes: Sequence[Sequence[float]], answers: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Return each metric as one figure per question; `outcomes` is (questions, n), -1 or +1.

    `pass` is the unbiased pass@8; with fewer responses it is pass@n.
    """
    table = np.array(outcomes)
    pairs = zip(answers, outcomes, strict=True)
    return {
        "avg": _rounded(avg_at_n(table)),
        "pass": _rounded(pass_at_k(table, min(PASS_K, table.shape[1]))),
        "maj": _rounded(majority_right(*pair) for pair in pairs),
        "entropy": _rounded(map(answer_entropy, answers)),
    }


def honest_shares(responses: Responses, is_honest: IsHonest) -> list[float]:
    """Return for each question the share of its responses that are honest work."""
    return [
        sum(is_honest(question.messages[-1]["content"], s.text) for s in samples) / len(samples)
        for question, samples in zip(responses.questions, responses.samples, strict=True)
    ]


def _accuracy(
    lab: Lab, questions: QuestionSet, decoding: Decoding, *, n: int, seed: int
) -> list[float]:
    """Return the share of right ones among `n` responses to each question."""
    responses = lab.sample(questions.questions, n, seed, decoding)
    return _rounded(avg_at_n(np.array(lab.verifiers.outcomes(responses, questions.answers))))


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _critic_figures(
    lab: Lab, responses: Responses, outcomes: Sequence[Sequence[float]]
) -> dict[str, float]:
    batch = lab.batch(responses, outcomes)
    figures = asdict(measure_critic(lab.critic, batch, lab.settings))
    if lab.two_critics:
        figures |= lab.two_critics.disagreement(batch, lab.settings.tokens_per_microbatch)
    return {k: v for k, v in figures.items() if isinstance(v, float) and math.isfinite(v)}
