"""Errors are described without the values that their messages quote."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from tempo_storage.errors import ConflictError
from tempo_storage.failures import reason, trace
from tempo_storage.ledger.engine import connect

CANARY = "canary-4711"


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


def nested() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        raise RuntimeError(f"failed for {CANARY}") from error


def bare() -> None:
    try:
        raise KeyError(CANARY)
    except KeyError:
        raise TypeError(CANARY)  # noqa: B904


QUOTING: dict[str, Callable[[], Any]] = {
    "a parser": lambda: float(CANARY),
    "a look-up": lambda: {}[CANARY],  # type: ignore[var-annotated]
    "pydantic": lambda: TypeAdapter(int).validate_python(CANARY),
    "json": lambda: json.loads(f'{{"{CANARY}'),
    "a cause": nested,
    "a context": bare,
}


@pytest.mark.parametrize("name", QUOTING)
def test_a_foreign_error_shows_its_class_and_its_places_but_no_text(name: str) -> None:
    error = raised(QUOTING[name])
    assert CANARY not in reason(error) + trace(error)
    assert reason(error) == type(error).__name__
    assert trace(error).endswith(type(error).__name__)
    assert "test_failures.py" in trace(error)


def test_a_text_in_the_ledger_that_is_no_utf_8_is_not_quoted() -> None:
    damaged = text("SELECT CAST(X'ff' || 'canary-4711' AS TEXT) AS messages")
    with connect("sqlite://").begin() as connection:
        error = raised(lambda: connection.execute(damaged).all())
    assert isinstance(error, OperationalError)
    assert CANARY in str(error)
    assert reason(error) == "OperationalError: Could not decode to UTF-8 column 'messages'"


@pytest.mark.parametrize("kind", [DataError, IntegrityError])
def test_the_database_s_own_message_about_a_value_is_not_shown(kind: type[Any]) -> None:
    error = kind("INSERT", {"messages": CANARY}, Exception(f"bad value: {CANARY}"))
    assert CANARY not in reason(error) + trace(error)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ConflictError("tempo-v1 is serving"), "tempo-v1 is serving"),
        (OSError(28, "No space left on device"), "OSError: No space left on device"),
        (ModuleNotFoundError("no", name="torch"), "ModuleNotFoundError: no module 'torch'"),
        (OperationalError("x", {}, Exception("database is locked")), "database is locked"),
    ],
)
def test_errors_that_quote_no_question_keep_their_text(error: Exception, shown: str) -> None:
    assert shown in reason(error)


def test_an_error_that_nobody_catches_prints_no_text_in_any_thread() -> None:
    script = (
        "import threading; from tempo_storage.failures import hide_messages; hide_messages()\n"
        "def fail(): raise ValueError('canary-' + '4711')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join(); fail()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("ValueError") == 2 + ended.stderr.count("raise ValueError")
    assert CANARY not in ended.stdout + ended.stderr


def test_pydantic_is_among_the_quoting_ones() -> None:
    """The test above proves something only if the stock text quotes the value."""
    assert CANARY in str(raised(QUOTING["pydantic"]))
    assert isinstance(raised(QUOTING["pydantic"]), ValidationError)
