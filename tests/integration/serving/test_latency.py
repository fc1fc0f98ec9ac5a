"""Users' waits beside a swap and beside training: gaps in streams, and the time of a request."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rounds import upload
from traffic import ask
from waiting import eventually

from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

REQUESTS = 200
SWAPS = 12
TOKENS = 16
FIRST_TOKENS = 3
LONG = ("--max-model-len", "32768", "--hf-overrides", '{"max_position_embeddings": 32768}')
SPLIT = countdown.split(17, labeled=120, unlabeled=48, unseen=0)
PROMPT: dict[str, Any] = {"model": "tempo", "prompt": "<bos> use"}


@pytest.fixture(scope="module")
def long_server(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any
) -> Iterator[Any]:
    """A server of answers that are long enough to outlast several promotions."""
    with serve(tiny_base, tmp_path_factory.mktemp("long"), flags=LONG) as server:
        yield server


class Stream(threading.Thread):
    """A user who reads a long answer, and notes when each token arrived and who answered."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self._server = server
        self.times: list[float] = []
        self.adapter = ""
        self._enough = threading.Event()

    def run(self) -> None:
        """Read until end() is called."""
        api = self._server.client.completions.with_streaming_response
        options = {"max_tokens": 32000, "extra_body": {"ignore_eos": True}}
        with api.create(stream=True, **PROMPT, **options) as raw:
            self.adapter = raw.headers["x-tempo-adapter"]
            for _ in raw.parse():
                self.times.append(time.monotonic())
                if self._enough.is_set():
                    return

    def gaps(self, since: float = 0.0) -> list[float]:
        """Return the seconds between tokens."""
        times = [moment for moment in self.times if moment >= since]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def end(self) -> None:
        """Stop reading."""
        self._enough.set()
        self.join(30)


@contextmanager
def streaming(server: Any) -> Iterator[Stream]:
    """Yield a stream that has begun."""
    stream = Stream(server)
    stream.start()
    eventually(lambda: len(stream.times) > 20)
    try:
        yield stream
    finally:
        stream.end()


def promote(server: Any, make_version_of: Callable[..., int], seed: int) -> int:
    version = make_version_of(server, seed=seed)
    server.promote(version)
    return version


def first_token_seconds(server: Any) -> tuple[float, str]:
    """Return the seconds to a first token, and the version that gave it."""
    start = time.monotonic()
    raw = server.client.completions.with_raw_response.create(max_tokens=1, **PROMPT)
    return time.monotonic() - start, raw.headers["x-tempo-adapter"]


def request_milliseconds(server: Any) -> list[float]:
    """Return the milliseconds of requests, one after the other."""
    milliseconds = []
    for _ in range(REQUESTS):
        start = time.monotonic()
        server.client.completions.create(max_tokens=TOKENS, **PROMPT)
        milliseconds.append(1000 * (time.monotonic() - start))
    return milliseconds


def percentiles(milliseconds: list[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=100)
    return f"{cuts[49]:.0f} | {cuts[98]:.0f} | {len(milliseconds)} requests"


def test_a_new_version_answers_at_once_beside_long_streams_of_three_older_ones(
    long_server: Any, make_version_of: Callable[..., int], record_property: Any
) -> None:
    promote(long_server, make_version_of, 1)
    first_token_seconds(long_server)
    idle = statistics.median(first_token_seconds(long_server)[0] for _ in range(20))
    with ExitStack() as stack:
        streams = []
        for seed in (2, 3, 4):
            promote(long_server, make_version_of, seed)
            streams.append(stack.enter_context(streaming(long_server)))
        first = []
        for seed in range(5, 5 + FIRST_TOKENS):
            newest = promote(long_server, make_version_of, seed)
            seconds, adapter = first_token_seconds(long_server)
            assert adapter == version_name(newest)
            first.append(seconds)
        assert all(stream.is_alive() for stream in streams)
        assert len({stream.adapter for stream in streams} | {adapter}) == 4
    ratio = statistics.median(first) / idle
    observed = f"first token of a new version beside three streams: {ratio:.1f} × idle"
    record_property("observed", observed)
    print(observed, [round(1000 * seconds) for seconds in first], "ms")
    assert ratio <= 3


def test_every_request_is_answered_while_versions_swap_and_while_a_round_trains(
    long_server: Any, make_version_of: Callable[..., int], record_property: Any
) -> None:
    """Prints the table of server/docs/costs.md."""
    promote(long_server, make_version_of, 15)
    idle = request_milliseconds(long_server)
    swaps = [gap_at_a_swap(long_server, make_version_of, 20 + seed) for seed in range(SWAPS)]
    usual = statistics.median(usual for _, usual in swaps)
    over = threading.Event()
    swapper = threading.Thread(target=swap_until, args=(long_server, make_version_of, over))
    swapper.start()
    swapping = request_milliseconds(long_server)
    over.set()
    swapper.join()
    training = request_milliseconds_while_training(long_server)
    ratios = sorted(largest / usual for largest, usual in swaps)
    rows = [
        "| request of 16 tokens, ms | p50 | p99 | |",
        f"| idle | {percentiles(idle)} |",
        f"| while versions are swapped | {percentiles(swapping)} |",
        f"| while a round trains | {percentiles(training)} |",
        f"largest gap of a stream at a swap: median {statistics.median(ratios):.1f}, most "
        f"{ratios[-1]:.1f} times its usual {1000 * usual:.1f} ms ({SWAPS} swaps)",
    ]
    record_property("observed", rows[-1])
    print("\n".join(rows))
    assert len(idle) == len(swapping) == len(training) == REQUESTS


def gap_at_a_swap(server: Any, make: Callable[..., int], seed: int) -> tuple[float, float]:
    """Return a stream's longest gap while a version is promoted, and its usual one, in seconds."""
    with streaming(server) as stream:
        time.sleep(1.0)
        usual = statistics.median(stream.gaps())
        start = time.monotonic()
        promote(server, make, seed)
        return max(stream.gaps(since=start)), usual


def swap_until(server: Any, make_version_of: Callable[..., int], over: threading.Event) -> None:
    for seed in range(40, 200):
        if over.is_set():
            return
        promote(server, make_version_of, seed)


def request_milliseconds_while_training(server: Any) -> list[float]:
    with server.admin() as tempo:
        upload(tempo, SPLIT.labeled)
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        with server.worker(TEMPO_SENTINEL_SECONDS="0"):
            job = tempo.jobs.create("round", max_steps=100)
            eventually(lambda: tempo.jobs.retrieve(job.id).status == "running")
            milliseconds = request_milliseconds(server)
            assert tempo.jobs.retrieve(job.id).status == "running"
            tempo.jobs.cancel(job.id)
    return milliseconds
