"""Measure a policy, and the critic beside it, on questions whose answers are known.

Nothing here is fed back to training, and its samples have seeds of their own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tempo_lab.study.lab import Drawn, Honest, Lab
from tempo_lab.study.questions import QuestionSet
from tempo_lab.study.sampling import seed_of
from tempo_trainer.algorithm.fitness import measure as critic_fitness
from tempo_trainer.algorithm.metrics import answer_entropy, avg_at_n, pass_at_k

METRICS = ("avg", "pass", "maj", "entropy", "honest")
SCALES = (0.4, 0.6, 0.8)
"""Of the policy's adapter, at the end of a run: policies between the base and the last one."""


def measure(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int, critic: bool
) -> dict[str, Any]:
    """Return avg@k, pass@k, maj@k and answer entropy (nats), question by question, of each set.

    Also the share of honest work, where the study can tell it.
    The critic's figures are those on the first set: the adapted questions, if they have answers.
    """
    found: dict[str, Any] = {}
    for name, questions in sets.items():
        seed = seed_of(lab.settings.seed, "measure", name, lab.iteration)
        drawn = lab.respond(questions.questions, samples, seed)
        outcomes = lab.judge.outcomes(drawn, questions.answers)
        found[name] = by_question(outcomes, lab.judge.answers(drawn))
        if lab.honest:
            found[name]["honest"] = honest_shares(drawn, lab.honest)
        if critic and "critic" not in found:
            found["critic"] = _critic(lab, drawn, outcomes)
    return found


def measure_scaled(
    lab: Lab, sets: Mapping[str, QuestionSet], *, samples: int
) -> dict[str, dict[str, Any]]:
    """Return the same for the policy's adapter at each scale below 1."""
    found = {}
    for scale in SCALES:
        with lab.networks.policy.scaled(scale):
            found[str(scale)] = measure(lab, sets, samples=samples, critic=False)
    return found


def by_question(
    outcomes: Sequence[Sequence[float]], answers: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Return each metric as one figure per question; `outcomes` is (questions, k), -1 or +1."""
    table, k = np.array(outcomes), len(outcomes[0])
    pairs = list(zip(answers, outcomes, strict=True))
    figures: dict[str, Iterable[float]] = {
        "avg": avg_at_n(table),
        "pass": pass_at_k(table, k),
        "maj": [majority_right(*pair) for pair in pairs],
        "entropy": map(answer_entropy, answers),
    }
    return {name: [round(float(v), 4) for v in values] for name, values in figures.items()}


def honest_shares(drawn: Drawn, honest: Honest) -> list[float]:
    """Return for each question the share of its responses that are honest work."""
    return [
        sum(honest(question.messages[-1]["content"], s.text) for s in samples) / len(samples)
        for question, samples in zip(drawn.questions, drawn.samples, strict=True)
    ]


def majority_right(answers: Sequence[str], outcomes: Sequence[float]) -> float:
    """Return whether the most common answer is right; equals count their share."""
    counts = Counter(answer for answer in answers if answer)
    most = max(counts.values(), default=0)
    right = dict(zip(answers, outcomes, strict=True))
    winners = [right[answer] > 0 for answer, count in counts.items() if count == most]
    return sum(winners) / len(winners) if winners else 0.0


def _critic(lab: Lab, drawn: Drawn, outcomes: Sequence[Sequence[float]]) -> dict[str, float]:
    fitness = critic_fitness(lab.networks.critic, lab.batch(drawn, outcomes), lab.settings)
    figures = asdict(fitness)
    return {k: v for k, v in figures.items() if isinstance(v, float) and math.isfinite(v)}
