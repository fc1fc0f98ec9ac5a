"""The supervisor, with small real children."""

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
from waiting import eventually

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


def tick_until(child: Child, condition: Callable[[], bool]) -> None:
    def tick() -> bool:
        child.tick()
        return condition()

    eventually(tick, seconds=10, pause=0.01)


def never() -> bool:
    return False


def test_each_line_of_output_begins_with_the_child_s_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = "import sys; print('one'); print('two', file=sys.stderr)"
    child = Child("worker", python(script), pauses=())
    with pytest.raises(ChildError):
        tick_until(child, never)
    assert capsys.readouterr().out.splitlines() == ["worker | one", "worker | two"]


def test_a_child_that_ends_is_started_again_after_a_pause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); n = len(p.read_text())\n"
        "p.write_text('x' * (n + 1)); print('life', n)\n"
        "if n >= 2: time.sleep(60)"
    )
    lives = tmp_path / "lives"
    lives.write_text("")
    child = Child("server", python(script, str(lives)), pauses=QUICK, failed_starts=9)
    tick_until(child, lambda: lives.read_text() == "xxx" and child.ready_at is not None)
    child.stop()
    lines = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert lines == [f"server | ended with 0, starts again in {pause} s" for pause in QUICK[:2]]


def test_a_child_that_was_ready_is_given_up_after_five_ends_in_a_row() -> None:
    script = "import time; print('no memory'); time.sleep(0.1); raise SystemExit(3)"
    child = Child("server", python(script), pauses=QUICK)
    with pytest.raises(ChildError, match=r"ended with 3, 5 times in a row.*\n.*no memory"):
        tick_until(child, never)
    assert PAUSES_SECONDS == (1.0, 2.0, 4.0, 8.0)


def test_a_child_that_was_never_ready_is_given_up_after_its_second_start() -> None:
    child = Child("server", python("raise SystemExit(3)"), is_ready=never, pauses=QUICK)
    with pytest.raises(ChildError, match="server ended with 3, 2 times in a row"):
        tick_until(child, never)


def test_the_errors_of_a_child_stand_on_one_screen_each_once() -> None:
    script = """
place = "(Worker pid=7) ERROR 11-30 09:41:59 [executor.py:1063] "
print(place + "    raise ValueError(", place + "ValueError: No block size for 16", sep="\\n")
print(place + "ValueError: No block size for 16")
print("WARNING This may cause OSError: [Errno 24]")
for number in range(1000):
    print("  File x.py, line", number)
print("RuntimeError: the engine failed")
raise SystemExit(1)
"""
    child = Child("server", python(script), is_ready=never, pauses=QUICK)
    with pytest.raises(ChildError) as failure:
        tick_until(child, never)
    assert str(failure.value).splitlines() == [
        "server ended with 1, 2 times in a row; its errors:",
        "ValueError: No block size for 16",
        "RuntimeError: the engine failed",
    ]


def test_a_steady_child_is_started_again_however_often_it_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = "import time; time.sleep(0.15); raise SystemExit(1)"
    child = Child("server", python(script), pauses=(0.01,), steady_seconds=0.05)
    output: list[str] = []

    def ended_three_times() -> bool:
        output.extend(capsys.readouterr().out.splitlines())
        return sum("again" in line for line in output) == 3

    tick_until(child, ended_three_times)
    child.stop()


def test_wrong_arguments_are_not_tried_again() -> None:
    script = "print('no such flag'); raise SystemExit(2)"
    child = Child("server", python(script), is_ready=never, pauses=QUICK)
    with pytest.raises(ChildError, match="server ended with 2; its last lines:\nno such flag"):
        tick_until(child, never)


def test_a_child_that_prints_much_is_not_blocked() -> None:
    child = Child("server", python("print('x' * 1_000_000); print('\\xff\\n' * 1000)"), pauses=())
    with pytest.raises(ChildError):
        tick_until(child, never)


def run_until(supervisor: Supervisor, act: Callable[[], None]) -> None:
    """Run a supervisor here until `act`, in a thread, has ended."""

    def act_and_stop() -> None:
        try:
            act()
        finally:
            supervisor.stop()

    thread = threading.Thread(target=act_and_stop)
    thread.start()
    supervisor.run()
    thread.join()


def test_a_child_starts_when_the_one_before_it_is_ready(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    announced = threading.Event()
    first = Child("server", python(SLEEP), is_ready=ready.exists)
    second = Child("worker", python(SLEEP))

    def make_ready() -> None:
        time.sleep(0.5)
        assert (first.ready_at, second.ready_at, announced.is_set()) == (None, None, False)
        ready.touch()
        assert announced.wait(10)

    run_until(Supervisor(first, second, on_ready=announced.set), make_ready)


def test_the_last_child_ends_first_and_each_may_finish_its_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announced = threading.Event()
    children = [Child(name, python(DRAINING)) for name in ("server", "worker")]

    def wait() -> None:
        assert announced.wait(10)
        time.sleep(0.3)  # until both have their handlers

    run_until(Supervisor(*children, on_ready=announced.set), wait)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["worker | drained", "server | drained"]
    assert not any(child.was_killed for child in children)


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children() -> None:
    script = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"
    )
    others = set(psutil.Process().children(recursive=True))  # children of earlier tests
    child = Child("server", python(script), stop_seconds=0.2)
    family: list[psutil.Process] = []

    def has_a_child() -> bool:
        family[:] = set(psutil.Process().children(recursive=True)) - others
        return len(family) == 2

    tick_until(child, has_a_child)
    child.stop()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert child.was_killed


STOPPING = "tempo  | stopping: the worker commits its iteration, vLLM finishes its requests"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_the_children_finish_their_work_and_the_exit_code_is_0(
    number: signal.Signals,
) -> None:
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
