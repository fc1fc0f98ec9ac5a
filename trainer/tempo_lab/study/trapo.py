"""TraPO's choice of unlabeled questions (arXiv:2512.13106), by the course of their pass rates.

Their pass rates must move like those of labeled questions.

A history is the pass rate of a question at each visit: the share of right responses if it is
labeled, else the share of responses that agree with the vote.
"""

from typing import Any

import numpy as np
from torch import Tensor

from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.metrics import Array

SIMILAR = 0.4
ALWAYS_KEPT = 0.1  # share of the questions, the most similar ones
MIN_VISITS = 2  # of a history that has a direction

Memory = dict[str, Any]
"""Histories by question under `labeled` and `unlabeled`; `kept` questions are references, too."""


def remember(memory: Memory, kind: str, batch: Batch, right: Tensor) -> None:
    """Add the pass rate of each question of a batch to its history; `right` is 0 or 1 (B,)."""
    histories = memory.setdefault(kind, {})
    for group in batch.group.unique():
        rows = batch.group == group
        question = int(batch.question[rows][0])
        histories.setdefault(question, []).append(float(right[rows].mean()))


def correlated_questions(memory: Memory) -> set[int]:
    """Return the unlabeled questions to learn from; they join the references.

    A question's score is its mean correlation with all references, over the first visits that all
    of them had. It is kept if its score is at least SIMILAR, or among the highest.
    """
    unlabeled = _long_enough(memory["unlabeled"])
    labeled = _long_enough(memory["labeled"])
    if not labeled or not unlabeled:
        return set()
    kept = set(memory.get("kept", []))
    visits = min(map(len, [*labeled.values(), *unlabeled.values()]))
    own = _standardised([history[:visits] for history in unlabeled.values()])
    references = [*labeled.values(), *(unlabeled[q] for q in kept if q in unlabeled)]
    others = _standardised([history[:visits] for history in references])
    scores = (own @ others.T / visits).mean(1)  # (questions,)
    bar = min(SIMILAR, float(np.quantile(scores, 1 - ALWAYS_KEPT)))
    chosen = {q for q, score in zip(unlabeled, scores, strict=True) if score >= bar}
    memory["kept"] = sorted(kept | chosen)
    return chosen


def _long_enough(histories: dict[int, list[float]]) -> dict[int, list[float]]:
    return {q: history for q, history in histories.items() if len(history) >= MIN_VISITS}


def _standardised(histories: list[list[float]]) -> Array:
    """Return each history (H, visits) with mean 0 and deviation 1; a flat one is all 0."""
    table = np.array(histories)
    centred = table - table.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0.0)
