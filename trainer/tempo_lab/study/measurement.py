"""Measure a policy, and the critic beside it, on questions whose answers are known.

Nothing here is fed back to training. The measurements' samples have seeds of their own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tempo_lab.study.lab import IsHonest, Lab, Responses
from tempo_lab.study.questions import QuestionSet
from tempo_lab.study.sampling import seed_of
from tempo_trainer.algorithm.fitness import measure as measure_critic
from tempo_trainer.algorithm.metrics import answer_entropy, avg_at_n, pass_at_k

METRICS = ("avg", "pass", "maj", "entropy", "honest")
SCALES = (0.4, 0.6, 0.8)
"""Scales of the policy's adapter at the end of a run: policies between the base and the last."""


def measure(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int, critic: bool
) -> dict[str, Any]:
    """Return METRICS of each set, question by question; entropy is in nats.

    Honest work is measured only if the study defines it. The critic is measured on the first set:
    the adapted questions, if they have answers.
    """
    figures: dict[str, Any] = {}
    for name, questions in sets.items():
        seed = seed_of(lab.settings.seed, "measure", name, lab.iteration)
        responses = lab.sample(questions.questions, samples, seed)
        outcomes = lab.verifiers.outcomes(responses, questions.answers)
        figures[name] = by_question(outcomes, lab.verifiers.answers(responses))
        if lab.is_honest:
            figures[name]["honest"] = honest_shares(responses, lab.is_honest)
        if critic and "critic" not in figures:
            figures["critic"] = _critic_figures(lab, responses, outcomes)
    return figures


def measure_scaled(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int
) -> dict[str, dict[str, Any]]:
    """Return the same for the policy's adapter at each of SCALES."""
    figures = {}
    for scale in SCALES:
        with lab.networks.policy.scaled(scale):
            figures[str(scale)] = measure(lab, sets, samples=samples, critic=False)
    return figures


def by_question(
    outcomes: Sequence[Sequence[float]], answers: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Return each metric as one figure per question; `outcomes` is (questions, k), -1 or +1."""
    table = np.array(outcomes)
    pairs = zip(answers, outcomes, strict=True)
    figures: dict[str, Iterable[float]] = {
        "avg": avg_at_n(table),
        "pass": pass_at_k(table, table.shape[1]),
        "maj": [majority_right(*pair) for pair in pairs],
        "entropy": map(answer_entropy, answers),
    }
    return {name: [round(float(v), 4) for v in values] for name, values in figures.items()}


def honest_shares(responses: Responses, is_honest: IsHonest) -> list[float]:
    """Return for each question the share of its responses that are honest work."""
    return [
        sum(is_honest(question.messages[-1]["content"], s.text) for s in samples) / len(samples)
        for question, samples in zip(responses.questions, responses.samples, strict=True)
    ]


def majority_right(answers: Sequence[str], outcomes: Sequence[float]) -> float:
    """Return 1 if the most common answer is right, else 0; of equally common ones, their share."""
    counts = Counter(answer for answer in answers if answer)
    most = max(counts.values(), default=0)
    outcome_of = dict(zip(answers, outcomes, strict=True))
    winners = [outcome_of[answer] > 0 for answer, count in counts.items() if count == most]
    return sum(winners) / len(winners) if winners else 0.0


def _critic_figures(
    lab: Lab, responses: Responses, outcomes: Sequence[Sequence[float]]
) -> dict[str, float]:
    fitness = measure_critic(lab.networks.critic, lab.batch(responses, outcomes), lab.settings)
    figures = asdict(fitness)
    return {k: v for k, v in figures.items() if isinstance(v, float) and math.isfinite(v)}
