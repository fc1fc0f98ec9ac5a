"""The demonstration's users: questions through the official openai client, and what they notice."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import openai

from tempo_trainer.demo.countdown import Puzzle, is_correct

MAX_TOKENS = 16
OPT_OUT = {"X-Tempo-Opt-Out": "1"}
SAMPLES = 8


@dataclass(slots=True)
class Traffic:
    """What users saw: counts, and seconds to the first token of streamed answers."""

    requests: int = 0
    failed: int = 0
    models: set[str] = field(default_factory=set)
    first_token_seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Users:
    """A few users who go on asking the unlabeled questions until they are stopped."""

    def __init__(
        self, client: openai.OpenAI, puzzles: Sequence[Puzzle], *, users: int, pause_seconds: float
    ) -> None:
        self.seen = Traffic()
        self._client = client
        self._puzzles = puzzles
        self._pause_seconds = pause_seconds
        self._numbers = count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(users)]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Traffic:
        """Finish the requests at hand and return what was seen."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60.0)
        return self.seen

    @property
    def asked_everything(self) -> bool:
        """Whether each question was asked at least once."""
        return self.seen.requests >= len(self._puzzles)

    def _ask_on(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number = next(self._numbers)
            puzzle = self._puzzles[number % len(self._puzzles)]
            try:
                first, model = ask(self._client, puzzle, stream=number % 2 == 0)
            except openai.OpenAIError as error:
                with self._lock:
                    self.seen.requests += 1
                    self.seen.failed += 1
                    self.seen.errors.append(str(error))
            else:
                with self._lock:
                    self.seen.requests += 1
                    self.seen.models.add(model)
                    self.seen.first_token_seconds += [first] if first is not None else []
            self._stop.wait(self._pause_seconds)


def ask(
    client: openai.OpenAI, puzzle: Puzzle, *, stream: bool, opt_out: bool = False
) -> tuple[float | None, str]:
    """Ask one question; return seconds to the first token (None unless streamed) and the model."""
    messages = [{"role": "user", "content": puzzle.question}]
    headers = OPT_OUT if opt_out else {}
    began = time.monotonic()
    answer = client.chat.completions.create(
        model="tempo",
        messages=messages,  # type: ignore[arg-type]
        max_tokens=MAX_TOKENS,
        stream=stream,
        extra_headers=headers,
    )
    if not stream:
        return None, answer.model  # type: ignore[union-attr]
    first, model = None, ""
    for chunk in answer:
        model = chunk.model  # type: ignore[union-attr]
        if first is None and chunk.choices and chunk.choices[0].delta.content:  # type: ignore[union-attr]
            first = time.monotonic() - began
    return first, model


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy on a set of questions: avg@8 and pass@8."""

    avg: float
    pass8: float


def measure(client: openai.OpenAI, model: str, puzzles: Sequence[Puzzle]) -> Score:
    """Ask each question eight times, without capture, and compare with the hidden answers."""
    with ThreadPoolExecutor(8) as threads:
        right = list(threads.map(lambda puzzle: _right(client, model, puzzle), puzzles))
    return Score(
        avg=sum(right) / (len(right) * SAMPLES),
        pass8=sum(c > 0 for c in right) / len(right),
    )


def _right(client: openai.OpenAI, model: str, puzzle: Puzzle) -> int:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": puzzle.question}],
        max_tokens=MAX_TOKENS,
        n=SAMPLES,
        temperature=1.0,
        extra_headers=OPT_OUT,
    )
    return sum(is_correct(puzzle.question, c.message.content or "") for c in answer.choices)


def p99_ms(seconds: Sequence[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return round(1000 * ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)], 1) if ordered else 0.0


def idle_first_tokens(client: openai.OpenAI, puzzles: Sequence[Puzzle]) -> Iterator[float]:
    """Yield seconds to the first token while nothing else runs."""
    for puzzle in puzzles:
        first, _ = ask(client, puzzle, stream=True, opt_out=True)
        if first is not None:
            yield first
