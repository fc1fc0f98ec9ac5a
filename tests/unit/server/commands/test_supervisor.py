"""Supervision, with real small children."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tempo_server.commands.supervisor import PAUSES_SECONDS, Child, ChildError, Supervisor

QUICK = (0.01, 0.02, 0.04, 0.08)
SLEEP = "import time; time.sleep(60)"
DRAINING = """
import signal, sys, time
def end(*_):
    print("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up")
time.sleep(60)
"""


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


def wait_for(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def tick_until(child: Child, condition: Callable[[], bool]) -> None:
    def ticked() -> bool:
        child.tick()
        return condition()

    wait_for(ticked)


def test_lines_carry_the_name_of_who_said_them(capsys: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('one'); print('two', file=sys.stderr)"
    child = Child("worker", python(script), pauses=())
    with pytest.raises(ChildError):
        tick_until(child, lambda: False)
    assert capsys.readouterr().out.splitlines() == ["worker | one", "worker | two"]


def test_what_dies_is_started_again_after_a_pause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); n = len(p.read_text())\n"
        "p.write_text('x' * (n + 1)); print('life', n)\n"
        "if n >= 2: time.sleep(60)"
    )
    lives = tmp_path / "lives"
    lives.write_text("")
    child = Child("server", python(script, str(lives)), pauses=QUICK)
    tick_until(child, lambda: lives.read_text() == "xxx" and child.ready_at is not None)
    child.stop()
    said = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert said == [f"server | ended with 0, starts again in {pause} s" for pause in QUICK[:2]]


def test_five_fast_deaths_in_a_row_end_it_with_the_last_words() -> None:
    child = Child("server", python("print('no memory'); raise SystemExit(3)"), pauses=QUICK)
    with pytest.raises(ChildError, match=r"ended with 3, 5 times in a row.*\n.*no memory"):
        tick_until(child, lambda: False)
    assert PAUSES_SECONDS == (1.0, 2.0, 4.0, 8.0)


def test_a_steady_life_forgives_earlier_deaths(capsys: pytest.CaptureFixture[str]) -> None:
    script = "import time; time.sleep(0.15); raise SystemExit(1)"
    child = Child("server", python(script), pauses=(0.01,), steady_seconds=0.05)
    output: list[str] = []

    def died_thrice() -> bool:
        output.extend(capsys.readouterr().out.splitlines())
        return sum("again" in line for line in output) == 3

    tick_until(child, died_thrice)
    child.stop()


def test_wrong_arguments_are_not_tried_again() -> None:
    script = "print('no such flag'); raise SystemExit(2)"
    child = Child("server", python(script), answers=lambda: False, pauses=QUICK)
    with pytest.raises(ChildError, match="server ended with 2; its last lines:\nno such flag"):
        tick_until(child, lambda: False)


def test_a_child_that_says_much_is_not_held_up() -> None:
    child = Child("server", python("print('x' * 1_000_000); print('\\xff\\n' * 1000)"), pauses=())
    with pytest.raises(ChildError):
        tick_until(child, lambda: False)


def supervised(supervisor: Supervisor, then: Callable[[], None]) -> None:
    """Run a supervisor here while a thread does `then` and stops it."""

    def act() -> None:
        try:
            then()
        finally:
            supervisor.stop()

    thread = threading.Thread(target=act)
    thread.start()
    supervisor.run()
    thread.join()


def test_the_next_starts_when_the_one_before_answers(tmp_path: Path) -> None:
    answers, told = tmp_path / "answers", threading.Event()
    first = Child("server", python(SLEEP), answers=answers.exists)
    second = Child("worker", python(SLEEP))

    def then() -> None:
        time.sleep(0.5)
        assert (first.ready_at, second.ready_at, told.is_set()) == (None, None, False)
        answers.touch()
        assert told.wait(10)

    supervised(Supervisor(first, second, on_ready=told.set), then)


def test_the_last_one_ends_first_and_each_may_drain(capsys: pytest.CaptureFixture[str]) -> None:
    told = threading.Event()
    children = [Child(name, python(DRAINING)) for name in ("server", "worker")]

    def then() -> None:
        assert told.wait(10)
        time.sleep(0.3)  # until both have their handlers

    supervised(Supervisor(*children, on_ready=told.set), then)
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["worker | drained", "server | drained"]


def test_who_does_not_end_is_killed_with_its_own_children() -> None:
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"
    )
    others = set(psutil.Process().children(recursive=True))  # of tests that came before
    child = Child("server", python(script), stop_seconds=0.2)
    family: list[psutil.Process] = []

    def has_a_child() -> bool:
        family[:] = set(psutil.Process().children(recursive=True)) - others
        return len(family) == 2

    tick_until(child, has_a_child)
    child.stop()
    assert psutil.wait_procs(family, timeout=5)[1] == []


STOPPING = "tempo  | stopping: an iteration is committed, requests under way are finished"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_and_the_process_exits_with_0(number: signal.Signals) -> None:
    script = f"""
import signal, sys
from tempo_server.commands.supervisor import Child, Supervisor
supervisor = Supervisor(Child("worker", [sys.executable, "-c", {DRAINING!r}]))
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, supervisor.stop)
supervisor.run()
"""
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "worker | up\n"
        os.kill(process.pid, number)
        assert process.stdout.read().splitlines() == [STOPPING, "worker | drained"]
    assert process.returncode == 0
