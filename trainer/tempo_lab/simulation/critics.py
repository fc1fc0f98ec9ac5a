"""How often the fitness check refuses a critic that is of no use, and passes one that is.

    python -m tempo_lab.simulation.critics        # prints a table; less than two minutes

A draw is a question with eight responses. Its difficulty is the question's share of right
responses; only draws with right and wrong responses are made, because no other draw measures a
critic. The logarithm of a response's length is normal around its question's. In the world "alike"
right and wrong responses have the same lengths; in "unlike" right ones are longer, and nearer to
one length. There a critic of length alone orders responses well.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, ndtri

from tempo_trainer.algorithm.fitness import fitness_of, unfit_reason
from tempo_trainer.algorithm.within import Rows

RESPONSES = 8
DRAWS = (24, 32, 64)
DIFFICULTIES = {"countdown-like": (1.1, 2.0), "LLM-like": (0.5, 0.4)}
"""Parameters of the beta distribution of a question's share of right responses."""
LENGTHS = ("alike", "unlike")
QUESTION_SPREAD = (
    0.5  # of the logarithm of a question's lengths; that within a question is the same
)
NOISE = 0.3  # of a critic of length: its standard deviation, where that of the lengths is 1
TRUNCATED = 0.05  # share of responses that are cut at the length limit
REPETITIONS = 2_000

Array = NDArray[np.floating]
Critic = Callable[[np.random.Generator, Rows, Array], Array]
"""Returns the values of a critic, from responses and the difficulty of the question of each."""


def difficulty_alone(generator: np.random.Generator, rows: Rows, share: Array) -> Array:
    """Know how hard the question is, and nothing else; values within a question are noise."""
    return np.asarray(_logits(share) + generator.normal(size=len(share)))


def length_rising(generator: np.random.Generator, rows: Rows, share: Array) -> Array:
    """Know the difficulty, and prefer long responses."""
    noise = NOISE * generator.normal(size=len(share))
    return np.asarray(_logits(share) + _standard(rows.length) + noise)


def length_in_the_middle(generator: np.random.Generator, rows: Rows, share: Array) -> Array:
    """Know the difficulty, and prefer responses of one length to shorter and longer ones."""
    noise = NOISE * generator.normal(size=len(share))
    best = _standard(rows.length) - 0.5
    return np.asarray(_logits(share) - np.abs(best) + noise)


def within(auroc: float, generator: np.random.Generator, rows: Rows, share: Array) -> Array:
    """Know the difficulty, and right from wrong within a question with this AUROC."""
    # Two normal variables of variance 1 whose means are apart by δ have the AUROC Φ(δ / √2).
    gap = np.sqrt(2) * ndtri(auroc)
    noise = generator.normal(size=len(share))
    return np.asarray(_logits(share) + gap * (rows.outcomes > 0) + noise)


CRITICS: Mapping[str, Critic] = {
    "difficulty alone": difficulty_alone,
    "length alone, rising": length_rising,
    "length alone, best in the middle": length_in_the_middle,
    "within .55": partial(within, 0.55),
    "within .65": partial(within, 0.65),
    "within .75": partial(within, 0.75),
}


def rows(
    *, repetitions: int = REPETITIONS, mixed_draws: Sequence[int] = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the share of refusals, and the mean AUROCs, of each critic in each world."""
    generator = np.random.default_rng(seed)
    return [
        row
        for difficulty in DIFFICULTIES
        for lengths in LENGTHS
        for draws in mixed_draws
        for row in _world(generator, difficulty, lengths, draws, repetitions)
    ]


def _world(
    generator: np.random.Generator, difficulty: str, lengths: str, draws: int, repetitions: int
) -> list[dict[str, Any]]:
    figures: dict[str, list[tuple[bool, float, float]]] = {name: [] for name in CRITICS}
    for _ in range(repetitions):
        responses, share = _responses(generator, difficulty, lengths, draws)
        for name, critic in CRITICS.items():
            responses.values[:] = critic(generator, responses, share)
            fitness = fitness_of(responses)
            aurocs = (fitness.within_auroc, fitness.within_auroc_beyond_length)
            figures[name].append((bool(unfit_reason(fitness)), *aurocs))
    world = {"difficulty": difficulty, "lengths": lengths, "mixed draws": draws}
    names = ("refused", "within AUROC", "beyond length")
    return [
        {"critic": name, **world, **dict(zip(names, np.mean(table, axis=0).tolist(), strict=True))}
        for name, table in figures.items()
    ]


def _responses(
    generator: np.random.Generator, difficulty: str, lengths: str, draws: int
) -> tuple[Rows, Array]:
    """Return mixed draws without values, and each response's question's share of right ones."""
    questions = generator.beta(*DIFFICULTIES[difficulty], size=16 * draws)
    right = generator.binomial(RESPONSES, questions)
    mixed = np.flatnonzero((right > 0) & (right < RESPONSES))[:draws]
    assert len(mixed) == draws
    is_right = (np.arange(RESPONSES) < right[mixed, None]).ravel()
    draw = np.repeat(np.arange(draws), RESPONSES)
    spread = np.full(len(draw), QUESTION_SPREAD)
    shift = np.zeros(len(draw))
    if lengths == "unlike":
        spread = np.where(is_right, 0.6, 1.2) * QUESTION_SPREAD
        shift = np.where(is_right, 0.3, 0.0)
    question = generator.normal(0, QUESTION_SPREAD, draws)[draw]
    length = np.exp(5 + question + shift + spread * generator.normal(size=len(draw)))
    limit = np.ceil(np.quantile(length, 1 - TRUNCATED))
    return Rows(
        values=np.zeros(len(draw)),
        outcomes=np.where(is_right, 1.0, -1.0),
        question=draw,
        draw=draw,
        length=np.minimum(np.ceil(length), limit),
        truncated=length >= limit,
    ), questions[mixed][draw]


def _logits(share: Array) -> Array:
    return np.asarray(logit(share.clip(0.01, 0.99)))


def _standard(length: Array) -> Array:
    log = np.log(length)
    return np.asarray((log - log.mean()) / log.std())
