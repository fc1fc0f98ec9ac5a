"""The demonstration is never silent: a line at least every 20 seconds, with share and time left."""

import argparse
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from rich.console import Console

from tempo_client.types import File, Job, QuestionCounts, Status
from tempo_lab.demo import run as demo
from tempo_lab.serving import jobs, progress
from tempo_lab.serving.progress import Reporter, time_left
from tempo_lab.serving.scores import Scores

MAX_SILENCE = 20.0
ESTIMATE = re.compile(r"; \d+ % done, (about \d+ min|less than 1 min) left$")


class Clock:
    """A clock that stands still until somebody waits, and the lines that were shown by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reporter: Reporter | None = None
        self.lines: list[tuple[float, str]] = []

    def __call__(self) -> float:
        return self.now

    def show(self, line: str) -> None:
        self.lines.append((self.now, line))

    def write(self, text: str) -> None:
        """Stand in for a file that a program writes to."""
        self.lines += [(self.now, line) for line in text.splitlines()]

    def flush(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        """Let time pass; each second the thread of the reporter looks at the clock, if it runs."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            if self.reporter:
                self.reporter.tick()

    def silences(self) -> list[float]:
        times = [0.0, *(time for time, _ in self.lines), self.now]
        return [after - before for before, after in pairwise(times)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def reporter(clock: Clock, **plan: float) -> Reporter:
    """Return a reporter whose thread is the clock's."""
    clock.reporter = Reporter(plan, clock.show, clock=clock)
    return clock.reporter


def last_line(clock: Clock) -> str:
    clock.wait(15)
    return clock.lines[-1][1]


# The reporter -------------------------------------------------------------------------------------


def test_no_wait_is_silent_for_more_than_20_seconds(clock: Clock) -> None:
    report = reporter(clock, silent=10, counted=100)
    report.begin("silent")
    clock.wait(1000)
    report.begin("counted")
    for iteration in range(10):
        clock.wait(33)
        report.update("a long iteration", iteration + 1, 10)
    assert max(clock.silences()) <= MAX_SILENCE


def test_each_line_has_the_step_the_share_done_and_the_time_left(clock: Clock) -> None:
    report = reporter(clock, first=60, second=60)
    report.begin("first")
    report.update("iteration 1 of 4", 1, 4)
    clock.wait(30)
    report.begin("second")
    clock.wait(100)
    lines = [line for _, line in clock.lines]
    assert [line for line in lines if not ESTIMATE.search(line)] == []
    assert lines[1].startswith("first: iteration 1 of 4; ")
    assert lines[-1].startswith("second; ")


def test_the_time_left_follows_the_pace_of_the_counted_iterations(clock: Clock) -> None:
    report = reporter(clock, first=300, second=300)
    report.begin("first")
    assert clock.lines[-1][1] == "first; 0 % done, about 10 min left"
    for iteration in range(1, 11):  # half of the step takes as long as the plan has for all of it
        clock.wait(30)
        report.update("", iteration, 20)
    assert last_line(clock).endswith("about 15 min left")
    report.update("", 20, 20)
    report.begin("second")
    clock.wait(1)
    assert clock.lines[-1][1].endswith("about 5 min left")


def test_one_slow_iteration_at_the_start_does_not_forecast_hours(clock: Clock) -> None:
    report = reporter(clock, training=240)
    report.begin("training")
    clock.wait(5)
    report.update("step 1 of 2000", 1, 2000)
    assert last_line(clock).endswith("about 7 min left")


def test_steps_that_the_command_leaves_out_count_for_nothing(clock: Clock) -> None:
    report = reporter(clock, first=60, left_out=6000, last=60)
    report.begin("first")
    clock.wait(60)
    report.begin("last")
    assert clock.lines[-1][1] == "last; 50 % done, about 1 min left"


def test_the_last_minute_is_not_counted_down() -> None:
    assert [time_left(s) for s in (0, 59, 60, 600)] == [
        "less than 1 min left",
        "less than 1 min left",
        "about 1 min left",
        "about 10 min left",
    ]


def test_lines_come_while_the_code_of_the_block_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    line_came = threading.Event()

    def show(line: str) -> None:
        if "waits" in line and threading.current_thread() is not threading.main_thread():
            line_came.set()

    with Reporter({"waits": 1}, show) as report:
        report.begin("waits")
        assert line_came.wait(30)


# The demonstration --------------------------------------------------------------------------------


class Demo:
    """Stands in for vLLM, its users and the trainer: each of its parts only lets time pass."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.requests = 0
        self.errors: list[str] = []
        self.answers: list[float | None] = []
        self.files = SimpleNamespace(create=self.upload)
        self.jobs = SimpleNamespace(create=self.create_job, retrieve=self.retrieve_job)
        self.job_seconds = 0.0

    def __call__(self, *_: Any, **__: Any) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clock.wait(40)

    def build_base(self, directory: Path, progress: Callable[[int, int, float], None]) -> Path:
        self.clock.wait(45)  # before the first step
        for step in range(1, 11):
            progress(step, 10, 1.0)
            self.clock.wait(30)
        return directory

    def wait_until_healthy(self, url: str) -> None:
        self.clock.wait(250)

    def check(self) -> None:
        pass

    def openai(self, **_: Any) -> Self:
        return self

    @contextmanager
    def asking(self, **_: Any) -> Iterator[None]:
        yield
        self.clock.wait(35)

    def sleep(self, seconds: float) -> None:
        self.clock.wait(seconds)
        self.requests += int(self.clock.now % 4 == 0)

    def measure(self, *_: Any, **__: Any) -> Scores:
        self.clock.wait(90)
        return {name: np.full(2, 0.5) for name in ("greedy", "users", "plain", "majority", "pass8")}

    def idle_first_tokens(self, *_: Any) -> list[float | None]:
        self.clock.wait(80)
        return [0.1]

    def upload(self, rows: Iterator[Any]) -> File:
        self.clock.wait(25)
        return File(id="f", bytes=1, created_at=0, filename="labeled.jsonl", examples=len([*rows]))

    def create_job(self, mode: str = "round", **_: Any) -> Job:
        self.clock.wait(25)
        self.job_seconds = 0.0
        return Job(id=mode, status="queued", created_at=0, mode=mode)

    def retrieve_job(self, mode: str) -> Job:
        """A job is queued for 30 s, has 10 iterations of 30 s, and a gate of 100 s."""
        self.job_seconds += 1.0
        iteration = min(10, max(0, int(self.job_seconds - 30) // 30))
        progress = {"phase": "m_step", "iteration": iteration, "of": 10}
        if self.job_seconds > 430:
            return Job(id=mode, status="succeeded", created_at=0, mode=mode)
        if self.job_seconds < 30:
            progress = {}
        return Job(id=mode, status="running", created_at=0, mode=mode, progress=progress)

    def status(self) -> Status:
        return Status(model="base", serving_adapter="tempo-v1", questions=QuestionCounts())


class ClockedReporter(Reporter):
    """A reporter that only the clock wakes, and only while its block runs."""

    clock: Clock

    def __init__(self, plan: dict[str, float], show: Any, **options: Any) -> None:
        super().__init__(plan, show, clock=self.clock, **options)

    def __enter__(self) -> Self:
        self.clock.reporter = self
        return self

    def __exit__(self, *_: object) -> None:
        self.clock.reporter = None


@pytest.fixture
def slow_demo(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """The clock after a demonstration in which every part was slow."""
    parts = Demo(clock)
    for name in ("build_base", "measure", "idle_first_tokens"):
        monkeypatch.setattr(demo, name, getattr(parts, name))
    for name in ("Process", "Tempo", "Users"):
        monkeypatch.setattr(demo, name, parts)
    for module in (demo, jobs):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=parts.sleep, monotonic=clock))
    monkeypatch.setattr(ClockedReporter, "clock", clock, raising=False)
    monkeypatch.setattr(demo, "Reporter", ClockedReporter)
    monkeypatch.setattr(demo, "console", Console(file=clock, width=200))
    (tmp_path / "admin.key").write_text("key")
    options = argparse.Namespace(
        cache=tmp_path, data_dir=tmp_path, seed=0, rounds=2, iterations=10, flip_reward=False
    )
    demo.run(options)
    return clock


def test_the_demonstration_is_never_silent_for_more_than_20_seconds(slow_demo: Clock) -> None:
    assert slow_demo.now > 2000
    assert max(slow_demo.silences()) <= MAX_SILENCE


def test_the_demonstration_shows_its_steps_and_iterations(slow_demo: Clock) -> None:
    lines = [line for _, line in slow_demo.lines if ESTIMATE.search(line)]
    steps = list(dict.fromkeys(re.split("[:;]", line)[0] for line in lines))
    assert steps == [
        "base model",
        "start of vLLM",
        "accuracy of the base",
        "speed without training",
        "recalibration",
        "users' first questions",
        "round 1 of 2",
        "round 2 of 2",
        "accuracy after training",
        "stop of vLLM",
    ]
    assert any(line.startswith("round 2 of 2: M-step, iteration 3 of 10; ") for line in lines)
