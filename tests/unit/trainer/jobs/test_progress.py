"""The progress of a job has counts, the pace and the time that is left."""

from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tempo_trainer.jobs.progress import LEARNING, MEASURING, Progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def progress(clock: Clock, written: list[dict[str, Any]]) -> Progress:
    return Progress(written.append, clock)


def make_step(progress: Progress, clock: Clock, position: int, seconds: float, **of: str) -> None:
    """Begin a step of ten responses, and let time pass."""
    progress.step(position, responses=10, **of)
    clock.now += seconds


def test_the_first_step_counts_its_responses_and_forecasts_nothing(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=4)
    progress.step(1, responses=400)
    first = {"phase": "sampling", "iteration": 1, "of": 4, "done": 0, "total": 400}
    assert written == [first | {"activity": "sampling"}]
    clock.now += 10
    progress.sampled(100, 100)
    # Nobody knows yet how long the policy learns from the responses.
    assert written[-1] == written[0] | {"done": 100, "rate": 10.0}


def test_the_time_left_is_that_of_whole_steps_and_a_new_step_samples_again(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=3)
    progress.step(1, responses=10)
    progress.update(phase="m_step", activity=LEARNING, metrics={"e_steps": 1})
    clock.now += 20
    progress.step(2, responses=10)
    clock.now += 10
    progress.sampled(5, 5)
    assert (written[-1]["phase"], written[-1]["activity"]) == ("sampling", "sampling")
    assert written[-1]["metrics"] == {"e_steps": 1}  # those of the last iteration stay
    assert (written[-1]["iteration"], written[-1]["done"]) == (2, 5)
    # A step took 20 s; the rest of this one and another one are left.
    assert (written[-1]["rate"], written[-1]["seconds_left"]) == (0.5, 30)


def test_learning_has_no_rate_and_a_late_step_no_time_left(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=2)
    for position in (1, 2):
        progress.step(position, responses=10)
        clock.now += 10
        progress.sampled(10, 0)
        progress.update(phase="m_step", activity=LEARNING)
        assert "rate" not in written[-1]
        clock.now += 50
    progress.update(phase="m_step", activity=LEARNING)
    assert "seconds_left" not in written[-1]  # this step is longer than the one before


def test_a_late_step_still_leaves_the_time_of_the_steps_after_it(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=3)
    make_step(progress, clock, 1, 30)
    make_step(progress, clock, 2, 89)
    progress.update(phase="m_step", activity=LEARNING)
    assert written[-1]["seconds_left"] == 30


def test_a_measurement_is_no_step(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("e_step", of=2)
    make_step(progress, clock, 0, 1000, activity=MEASURING)
    make_step(progress, clock, 1, 30)
    make_step(progress, clock, 2, 30)
    assert (written[0]["activity"], written[-1]["seconds_left"]) == ("measuring", 30)
    make_step(progress, clock, 2, 0, activity=MEASURING)
    assert "seconds_left" not in written[-1]


def test_the_gate_forecasts_by_its_responses(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("gating", of=10)
    progress.step(10, responses=100)
    clock.now += 30
    progress.sampled(25, 75)
    assert written[-1]["seconds_left"] == 90


def test_a_job_that_goes_on_forecasts_by_what_it_did_itself(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=10)
    make_step(progress, clock, 9, 30)
    make_step(progress, clock, 10, 0)
    assert written[-1]["seconds_left"] == 30


def test_a_step_that_needs_more_responses_than_expected_shows_them(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("sampling", of=1)
    progress.step(1, responses=10)
    clock.now += 5
    progress.sampled(8, 8)
    assert (written[-1]["done"], written[-1]["total"]) == (8, 16)


def test_the_row_is_written_at_most_once_a_second(
    progress: Progress, clock: Clock, written: list[dict[str, Any]]
) -> None:
    progress.begin("e_step", of=1)
    progress.step(1, responses=100)
    for _ in range(30):
        clock.now += 0.1
        progress.sampled(1, 99)
    assert 3 <= len(written) <= 4


def test_a_ledger_that_is_away_fails_no_sampling(clock: Clock) -> None:
    def write(fields: dict[str, Any]) -> None:
        if fields["done"]:
            raise OperationalError("write", {}, Exception("away"))

    progress = Progress(write, clock)
    progress.begin("sampling", of=1)
    progress.step(1, responses=10)
    clock.now += 5
    progress.sampled(4, 6)


def test_the_responses_of_a_check_are_not_counted(
    progress: Progress, written: list[dict[str, Any]]
) -> None:
    progress.sampled(4, 6)
    assert written == []
