"""Score the answers of a served model: greedy, at the users' temperature, and at temperature 1."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import openai
from numpy.typing import NDArray

from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.algorithm.metrics import avg_at_n, majority_right, pass_at_k
from tempo_trainer.sampling.verifiers import answer

OPT_OUT = {"X-Tempo-Opt-Out": "1"}  # the server does not capture these requests
USERS = Decoding(temperature=0.6)
SAMPLES = 16
PASS_K = 8
REQUESTS = 8  # at once
MEASURES = {
    "greedy": "greedy",
    "users": f"at the users' temperature, {USERS.temperature:g}",
    "plain": "at temperature 1",
    "majority": "majority@16, at temperature 1",
    "pass8": "pass@8, at temperature 1",
}
"""The measurements of `Scores`, as tables name them."""

Array = NDArray[np.floating]
Scores = Mapping[str, Array]
"""By measurement, one value in [0, 1] for each question: a share of right responses, or whether the
majority of them is right, or the unbiased estimate of the chance that one of eight is right."""


class Question(Protocol):
    """A question whose responses can be verified."""

    @property
    def question(self) -> str:
        """The question as a user asks it."""

    def is_solved_by(self, response: str) -> bool:
        """Whether a response is right."""


def measure(
    client: openai.OpenAI, model: str, questions: Sequence[Question], *, max_tokens: int
) -> Scores:
    """Ask each question for 33 responses, without capture, and verify them.

    One response is greedy, 16 are at the users' temperature and 16 at temperature 1.
    """

    def outcomes(decoding: Decoding, n: int) -> tuple[list[list[str]], Array]:
        texts = responses(client, model, questions, decoding=decoding, n=n, max_tokens=max_tokens)
        return texts, _outcomes(questions, texts)

    _, greedy = outcomes(GREEDY, 1)
    _, users = outcomes(USERS, SAMPLES)
    texts, plain = outcomes(PLAIN, SAMPLES)
    answers = [[answer(text) for text in row] for row in texts]
    return {
        "greedy": avg_at_n(greedy),
        "users": avg_at_n(users),
        "plain": avg_at_n(plain),
        "majority": np.array([*map(majority_right, answers, plain)], dtype=float),
        "pass8": pass_at_k(plain, PASS_K),
    }


def means(scores: Scores) -> dict[str, float]:
    """Return the mean over the questions of each measurement."""
    return {name: round(float(values.mean()), 4) for name, values in scores.items()}


def responses(
    client: openai.OpenAI,
    model: str,
    questions: Sequence[Question],
    *,
    decoding: Decoding,
    n: int,
    max_tokens: int,
) -> list[list[str]]:
    """Return the texts of `n` responses to each question, which the server does not capture."""

    def ask(question: Question) -> list[str]:
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question.question}],
            max_tokens=max_tokens,
            n=n,
            temperature=decoding.temperature,
            extra_headers=OPT_OUT,
        )
        return [choice.message.content or "" for choice in reply.choices]

    with ThreadPoolExecutor(REQUESTS) as threads:
        return list(threads.map(ask, questions))


def _outcomes(questions: Sequence[Question], texts: Sequence[Sequence[str]]) -> Array:
    """Return -1 (wrong) or +1 (right) for each response, as (questions, n)."""
    rows = zip(questions, texts, strict=True)
    right = np.array([[question.is_solved_by(text) for text in row] for question, row in rows])
    return np.where(right, 1.0, -1.0)
