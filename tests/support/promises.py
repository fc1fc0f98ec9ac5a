"""The tables of `make chaos` and `make attack`: what was done, promised and seen.

A marker names the table, a group, what the test does, and what is promised:

    @pytest.mark.fault(5, "kill -9 of Valkey", promise="no request fails")
    @pytest.mark.attack("Valkey", "a pickled job", promise="nothing of it runs")

Each test with the same arguments adds to the same row. Its property `observed` says what it
measured; the test of an attack must record one.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

OBSERVED = "observed"
FAULTS = 21
ATTACK_SECONDS = 120.0
FIRST_COLUMNS = {"fault": "#", "attack": "against"}

Key = tuple[Any, str, str]


@dataclass
class Row:
    """One fault or attack, and the outcomes of the tests that try it."""

    observed: Counter[str] = field(default_factory=Counter)
    outcomes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return `yes` if the promise held in every test, else `NO` or `not run`."""
        if "failed" in self.outcomes:
            return "NO"
        return "yes" if "passed" in self.outcomes else "not run"

    @property
    def observation(self) -> str:
        """Return what the tests recorded, or one word where they recorded nothing."""
        word = {"yes": "held", "NO": "broken"}.get(self.verdict, "")
        texts = [f"{text} ({n} times)" if n > 1 else text for text, n in self.observed.items()]
        return "; ".join(texts) or word


def put_into_report(item: pytest.Item) -> None:
    """Put the arguments of a test's markers into its report."""
    for kind in FIRST_COLUMNS:
        for mark in item.iter_markers(kind):
            item.user_properties.append((kind, (*mark.args, mark.kwargs["promise"])))


@contextmanager
def attacked(item: pytest.Item) -> Iterator[None]:
    """Bound the time of a test that attacks, and fail it if it says nothing of what it saw."""
    if item.get_closest_marker("attack") is None:
        yield
        return
    with _time_limit(ATTACK_SECONDS):
        yield
    assert any(name == OBSERVED for name, _ in item.user_properties), "the test recorded nothing"


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f"the attack has not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def print_table(terminal: pytest.TerminalReporter, started_at: float) -> None:
    """Print the table that `-m` selected."""
    words = terminal.config.option.markexpr.split()
    kind = next((kind for kind in FIRST_COLUMNS if kind in words), None)
    if kind is None or terminal.config.option.collectonly:
        return
    rows = _rows(terminal, kind)
    terminal.section(f"{kind}s")
    terminal.write_line(f"| {FIRST_COLUMNS[kind]} | {kind} | promise | observed | ok |")
    terminal.write_line("|---|---|---|---|---|")
    for (group, action, promise), row in sorted(rows.items()):
        cells = (str(group), action, promise, row.observation, row.verdict)
        terminal.write_line(f"| {' | '.join(cells)} |")
    verdicts = Counter(row.verdict for row in rows.values())
    counts = f"{verdicts['yes']} held, {verdicts['NO']} failed, {verdicts['not run']} not run"
    minutes = (time.time() - started_at) / 60
    terminal.write_line(f"{len(rows)} rows: {counts}; {minutes:.1f} minutes")
    if kind == "fault" and (missing := set(range(1, FAULTS + 1)) - {n for n, *_ in rows}):
        terminal.write_line(f"no test ran for: {', '.join(map(str, sorted(missing)))}")


def _rows(terminal: pytest.TerminalReporter, kind: str) -> dict[Key, Row]:
    rows: dict[Key, Row] = {}
    for report in _reports(terminal):
        for key in [tuple(value) for name, value in report.user_properties if name == kind]:
            row = rows.setdefault(key, Row())
            row.outcomes.append(report.outcome)
            row.observed.update(str(v) for name, v in report.user_properties if name == OBSERVED)
            if report.skipped and isinstance(report.longrepr, tuple):
                row.observed[report.longrepr[2]] += 1
    return rows


def _reports(terminal: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """Yield the reports of the calls, and of every phase that failed or was skipped."""
    for reports in terminal.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (
                report.when == "call" or report.outcome != "passed"
            ):
                yield report
