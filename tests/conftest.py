"""The path to tests/support, an empty ledger, and the fault table of `make chaos`."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FAULTS = 21
KEY = "fault"
sys.path.append(str(Path(__file__).parent / "support"))  # modules that several test files share


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Any]:
    """An empty ledger in SQLite, in a directory that opening it creates."""
    from ledgers import sqlite_ledger

    with sqlite_ledger(tmp_path / "ledger") as made:
        yield made


# Programs that a machine may lack ----------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which a test fails, and does not skip, where its program is missing."""
    parser.addoption("--strict-services", action="store_true", help="a missing service is an error")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that need such a program."""
    config.addinivalue_line("markers", "needs(name): a program of tests/support/services.py")


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which may need the program
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, or fail it, where a program that it needs is missing."""
    from services import reason_missing

    end = pytest.fail if item.config.getoption("--strict-services") else pytest.skip
    for mark in item.iter_markers("needs"):
        if reason := reason_missing(mark.args[0]):
            end(reason)


# The fault table ---------------------------------------------------------------------------------


@dataclass
class Row:
    """One fault, and the outcomes of the tests that inject it."""

    observed: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if "failed" in self.outcomes:
            return "NO"
        return "yes" if "passed" in self.outcomes else "not run"

    @property
    def observation(self) -> str:
        """Return the figures that the tests recorded, or one word where they recorded none."""
        word = {"yes": "held", "NO": "broken"}.get(self.verdict, "")
        return "; ".join(dict.fromkeys(self.observed)) or word


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the marker's arguments into each test's report."""
    for item in items:
        for mark in item.iter_markers(KEY):
            item.user_properties.append((KEY, (*mark.args, mark.kwargs["promise"])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table when `-m` selected the faults."""
    options = terminalreporter.config.option
    if KEY not in options.markexpr.split() or options.collectonly:
        return
    rows: dict[tuple[int, str, str], Row] = {}
    for report in _reports(terminalreporter):
        properties = [(name, value) for name, value in report.user_properties]
        for fault in [value for name, value in properties if name == KEY]:
            row = rows.setdefault(tuple(fault), Row())
            row.outcomes.append(report.outcome)
            row.observed += [str(value) for name, value in properties if name == "observed"]
            if report.skipped and isinstance(report.longrepr, tuple):
                row.observed.append(report.longrepr[2])
    terminalreporter.section("faults")
    terminalreporter.write_line("| # | fault | promise | observed | ok |")
    terminalreporter.write_line("|---|---|---|---|---|")
    for (number, fault, promise), row in sorted(rows.items()):
        cells = (str(number), fault, promise, row.observation, row.verdict)
        terminalreporter.write_line(f"| {' | '.join(cells)} |")
    if missing := set(range(1, FAULTS + 1)) - {number for number, *_ in rows}:
        terminalreporter.write_line(f"no test ran for: {', '.join(map(str, sorted(missing)))}")


def _reports(terminalreporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """Yield the reports of the calls, and of every phase that failed or was skipped."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (
                report.when == "call" or report.outcome != "passed"
            ):
                yield report
