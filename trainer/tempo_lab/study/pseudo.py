"""Reward accuracy: how often the reward of a method agrees with the truth, on labeled questions.

Held-out labeled questions are answered and rewarded as if they had no label. The reward accuracy is
the share of responses whose reward says "right" exactly where the verifier does. A run has
collapsed at the first measurement at which it is below COLLAPSED (arXiv:2603.08660).
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tempo_lab.study.lab import Lab, Responses
from tempo_lab.study.rewards import cluster_share, majority
from tempo_lab.study.sampling import seed_of
from tempo_trainer.algorithm import objective
from tempo_trainer.algorithm.batch import forward_no_grad
from tempo_trainer.algorithm.metrics import Array

COLLAPSED = 0.01
Verdicts = Callable[[Lab, Responses], Array]
"""Whether the reward calls each response right, in the order of the questions."""


def reward_figures(lab: Lab, method: str) -> dict[str, float]:
    """Return the mean share of the most common answer, and the accuracy of the method's reward.

    A method that is rewarded by labels, or at random, has no such accuracy.
    """
    questions = lab.held_out
    seed = seed_of(lab.settings.seed, "reward", lab.iteration)
    responses = lab.sample(questions.questions, lab.settings.group_size, seed)
    figures = {"majority_share": _majority_share(lab.verifiers.answers(responses))}
    if method in VERDICTS:
        truth = np.array(lab.verifiers.outcomes(responses, questions.answers)).ravel() > 0
        figures["accuracy"] = float((VERDICTS[method](lab, responses) == truth).mean())
    return figures


def _majority_share(answers: Sequence[Sequence[str]]) -> float:
    counts = [Counter(answer for answer in row if answer) for row in answers]
    sizes = map(len, answers)
    shares = [max(c.values(), default=0) / size for c, size in zip(counts, sizes, strict=True)]
    return float(np.mean(shares))


def _by_critic(lab: Lab, responses: Responses) -> Array:
    batch = lab.batch(responses)
    values = forward_no_grad(lab.critic.values, batch, lab.settings.tokens_per_microbatch)
    sign = lab.step_settings.reward_sign
    return np.asarray(sign * objective.last_values(values, batch.mask).numpy() > 0)


def _by_vote(lab: Lab, responses: Responses) -> Array:
    return np.asarray(majority(lab.verifiers.answers(responses)).numpy() > 0)


def _by_share(lab: Lab, responses: Responses) -> Array:
    """Call the responses of the largest clusters right."""
    shares = cluster_share(lab.verifiers.answers(responses)).numpy()
    table = shares.reshape(len(responses.questions), -1)  # (questions, n)
    return np.asarray(table == table.max(1, keepdims=True)).ravel()


def _by_format(lab: Lab, responses: Responses) -> Array:
    return np.array(lab.verifiers.parses(responses)).ravel()


VERDICTS: dict[str, Verdicts] = {
    "tempo": _by_critic,
    "frozen": _by_critic,
    "ttrl": _by_vote,
    "dissent": _by_vote,
    "trapo": _by_vote,
    "empo": _by_share,
    "format": _by_format,
}
"""The verdict of the reward of each method that has one."""
