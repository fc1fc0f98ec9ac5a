"""The demonstration's users, who ask through the official openai client; errors and delays."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle

import numpy as np
import openai

from tempo_lab.serving.scores import OPT_OUT, USERS
from tempo_lab.tasks.countdown import Puzzle
from tempo_trainer.worker.background import repeated_in_thread

MAX_TOKENS = 16


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


def p99_ms(seconds: Iterable[float | None]) -> float:
    """Return the 99th percentile in milliseconds, without the Nones; 0 if there are no others."""
    measured = [s for s in seconds if s is not None]
    if not measured:
        return 0.0
    return round(1000 * float(np.quantile(measured, 0.99, method="inverted_cdf")), 1)


def idle_first_tokens(client: openai.OpenAI, puzzles: Sequence[Puzzle]) -> list[float | None]:
    """Return the seconds to the first token of each answer while nothing else runs."""
    return [ask(client, puzzle, stream=True, opt_out=True) for puzzle in puzzles]
