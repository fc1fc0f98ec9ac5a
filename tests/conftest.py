"""The path to tests/support, an empty ledger, and the tables of `make chaos` and `make attack`."""

import functools
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

STARTED_AT = pytest.StashKey[float]()
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
    """Register the marker of the tests that need such a program; note when the run began."""
    config.stash[STARTED_AT] = time.time()
    config.addinivalue_line("markers", "needs(name): a program of tests/support/services.py")


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which may need the program
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, or fail it, where a program that it needs is missing."""
    from services import reason_missing

    end = pytest.fail if item.config.getoption("--strict-services") else pytest.skip
    for mark in item.iter_markers("needs"):
        if reason := reason_missing(mark.args[0]):
            end(reason)


# The tables of `make chaos` and `make attack` -----------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the markers' arguments into each test's report."""
    from promises import put_into_report

    for item in items:
        put_into_report(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the tests that attack."""
    from promises import attacked

    with attacked(item):
        return (yield)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table that `-m` selected."""
    from promises import print_table

    print_table(terminalreporter, config.stash[STARTED_AT])


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """Record what an attack achieved, for the table: seen("3 of 40 were refused")."""
    return functools.partial(record_property, "observed")
