"""A step in the background is repeated also after it has failed."""

import pytest
from waiting import eventually

from tempo_trainer.worker import background
from tempo_trainer.worker.background import repeated_in_thread


def test_a_step_that_fails_is_repeated_and_its_error_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def step() -> float:
        calls.append(1)
        raise ValueError("a user's question")

    monkeypatch.setattr(background, "FAILURE_SECONDS", 0.01)
    with repeated_in_thread(step):
        eventually(lambda: len(calls) > 2, seconds=10)
    assert "ValueError" in caplog.text
    assert "question" not in caplog.text
