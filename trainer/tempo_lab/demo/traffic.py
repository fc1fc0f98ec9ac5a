"""The demonstration's users, who ask through the official openai client; errors and delays."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import openai
from numpy.typing import NDArray

from tempo_lab.tasks.countdown import Puzzle
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.algorithm.metrics import avg_at_n, majority_right, pass_at_k
from tempo_trainer.sampling.verifiers import answer
from tempo_trainer.worker.background import repeated_in_thread

MAX_TOKENS = 16
OPT_OUT = {"X-Tempo-Opt-Out": "1"}  # the server does not capture these requests
USERS = Decoding(temperature=0.6)
SAMPLES = 16
PASS_K = 8


class Users:
    """Users who ask the unlabeled questions in turn, inside the block of `asking`."""

    def __init__(self, client: openai.OpenAI, puzzles: Sequence[Puzzle]) -> None:
        self.answers: list[float | None] = []
        """Seconds to the first token of each answer; None if it was not streamed."""
        self.errors: list[str] = []
        self._client = client
        self._next = zip(cycle(puzzles), cycle([True, False]), strict=False)
        self._lock = threading.Lock()

    @contextmanager
    def asking(self, *, users: int, pause_seconds: float) -> Iterator[None]:
        """Let some users ask, each with a pause after an answer; every other answer is streamed."""
        with ExitStack() as threads:
            for _ in range(users):
                threads.enter_context(repeated_in_thread(lambda: self._ask_next(pause_seconds)))
            yield

    @property
    def requests(self) -> int:
        """Number of requests that have ended, failed ones included."""
        return len(self.answers) + len(self.errors)

    def _ask_next(self, pause_seconds: float) -> float:
        with self._lock:
            puzzle, stream = next(self._next)
        try:
            self.answers.append(ask(self._client, puzzle, stream=stream))
        except openai.OpenAIError as error:
            self.errors.append(str(error))
        return pause_seconds


def ask(
    client: openai.OpenAI, puzzle: Puzzle, *, stream: bool, opt_out: bool = False
) -> float | None:
    """Ask one question; return the seconds to the first token, or None without `stream`."""
    start = time.monotonic()
    first: float | None = None
    reply = client.chat.completions.create(
        model="tempo",
        messages=[{"role": "user", "content": puzzle.question}],
        max_tokens=MAX_TOKENS,
        temperature=USERS.temperature,
        stream=stream,
        extra_headers=OPT_OUT if opt_out else {},
    )
    if isinstance(reply, openai.Stream):
        for chunk in reply:
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.monotonic() - start
    return first


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy on a set of questions."""

    greedy: float
    users: float
    """Share of right ones among 16 responses to each question, at the users' temperature."""
    plain: float
    """The same at temperature 1; the other figures are of these responses, too."""
    majority: float
    """Share of questions whose most common response is right."""
    pass8: float
    """Unbiased estimate of the chance that one of eight responses is right."""


def measure(client: openai.OpenAI, model: str, puzzles: Sequence[Puzzle]) -> Score:
    """Ask each question for 33 responses, without capture, and verify them.

    One response is greedy, 16 are at the users' temperature and 16 at temperature 1.
    """
    greedy = _responses(client, model, puzzles, GREEDY, n=1)
    users = _responses(client, model, puzzles, USERS, n=SAMPLES)
    plain = _responses(client, model, puzzles, PLAIN, n=SAMPLES)
    outcomes = _outcomes(puzzles, plain)
    answers = [[answer(text) for text in row] for row in plain]
    return Score(
        greedy=float(avg_at_n(_outcomes(puzzles, greedy)).mean()),
        users=float(avg_at_n(_outcomes(puzzles, users)).mean()),
        plain=float(avg_at_n(outcomes).mean()),
        majority=float(np.mean([*map(majority_right, answers, outcomes)])),
        pass8=float(pass_at_k(outcomes, PASS_K).mean()),
    )


def _responses(
    client: openai.OpenAI, model: str, puzzles: Sequence[Puzzle], decoding: Decoding, *, n: int
) -> list[list[str]]:
    """Return the texts of `n` responses to each question."""

    def ask_one(puzzle: Puzzle) -> list[str]:
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": puzzle.question}],
            max_tokens=MAX_TOKENS,
            n=n,
            temperature=decoding.temperature,
            extra_headers=OPT_OUT,
        )
        return [choice.message.content or "" for choice in reply.choices]

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask_one, puzzles))


def _outcomes(
    puzzles: Sequence[Puzzle], responses: Sequence[Sequence[str]]
) -> NDArray[np.floating]:
    """Return -1 (wrong) or +1 (right) for each response, as (questions, n)."""
    rows = zip(puzzles, responses, strict=True)
    right = np.array([[puzzle.is_solved_by(text) for text in texts] for puzzle, texts in rows])
    return np.where(right, 1.0, -1.0)


def p99_ms(seconds: Iterable[float | None]) -> float:
    """Return the 99th percentile in milliseconds, without the Nones; 0 if there are no others."""
    measured = [s for s in seconds if s is not None]
    if not measured:
        return 0.0
    return round(1000 * float(np.quantile(measured, 0.99, method="inverted_cdf")), 1)


def idle_first_tokens(client: openai.OpenAI, puzzles: Sequence[Puzzle]) -> list[float | None]:
    """Return the seconds to the first token of each answer while nothing else runs."""
    return [ask(client, puzzle, stream=True, opt_out=True) for puzzle in puzzles]
