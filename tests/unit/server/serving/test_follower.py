"""The follower follows the serving pointer; if that fails, the old version goes on serving."""

import asyncio
import logging
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tempo_storage.errors import AdapterMismatchError, CorruptAdapterError, NotFoundError

# Promotions --------------------------------------------------------------------------------------


def test_a_promotion_is_followed_and_acknowledged_with_the_counters(followed: Any) -> None:
    followed.promote(1)
    followed.poll()
    assert (followed.bindings.serving, followed.bindings.previous) == (1, 0)
    assert followed.acknowledged() == (1, 1, None)
    process = followed.process()
    assert (process.counters["captured"], process.held) == (3, ["tempo-v0"])


def test_a_start_serves_the_promoted_version(followed: Any) -> None:
    followed.promote(1)
    followed.promote(2)
    asyncio.run(followed.follower.restore())
    assert (followed.bindings.serving, followed.bindings.previous) == (2, 1)
    assert followed.acknowledged() == (2, 2, None)


# Refusals ----------------------------------------------------------------------------------------


def test_a_damaged_version_is_marked_corrupt_and_the_old_one_goes_on_serving(followed: Any) -> None:
    followed.promote(1)
    followed.poll()
    followed.bindings.errors[2] = CorruptAdapterError("tempo-v2 is damaged; roll back")
    followed.promote(2)
    for _ in range(3):
        followed.poll()
    assert followed.bindings.attempts == [1, 2, 1]  # version 2 is tried once
    assert followed.acknowledged() == (1, 3, None)  # the pointer has returned to version 1
    assert followed.errors() == [("adapter.corrupt", "tempo-v2 is damaged; roll back")]
    assert followed.status(2) == "corrupt"


def test_the_error_of_a_refusal_ends_when_the_pointer_returns_to_the_base(followed: Any) -> None:
    followed.bindings.errors[1] = CorruptAdapterError("tempo-v1 is damaged; roll back")
    followed.promote(1)
    followed.poll()
    assert followed.acknowledged() == (0, 1, "tempo-v1 is damaged; roll back")
    followed.poll()
    assert followed.acknowledged() == (0, 2, None)


@pytest.mark.parametrize(
    "error", [AdapterMismatchError("rank 64; restart"), RuntimeError("vLLM: unexpected modules")]
)
def test_a_version_that_does_not_fit_is_refused_once_but_not_marked_corrupt(
    followed: Any, error: Exception
) -> None:
    followed.promote(1)
    followed.poll()
    followed.bindings.errors[2] = error
    followed.promote(2)
    for _ in range(3):
        followed.poll()
    assert followed.bindings.attempts == [1, 2]
    assert followed.acknowledged() == (1, 2, str(error))
    assert followed.errors() == [("adapter.refused", str(error))]
    assert followed.status(2) == "serving"


def test_a_version_whose_directory_is_late_is_tried_again(followed: Any) -> None:
    followed.bindings.errors[1] = NotFoundError("no adapter 'tempo-v1'")
    followed.promote(1)
    followed.poll()
    followed.poll()
    assert followed.bindings.attempts == [1, 1]
    assert len(followed.errors()) == 1
    followed.bindings.errors.clear()
    followed.poll()
    assert followed.acknowledged() == (1, 1, None)


def test_the_next_promotion_ends_a_refusal(followed: Any) -> None:
    followed.bindings.errors[1] = CorruptAdapterError("damaged")
    followed.promote(1)
    followed.poll()
    followed.promote(2)
    followed.poll()
    assert followed.acknowledged() == (2, 3, None)


@pytest.mark.parametrize(("damaged", "serving"), [((2,), 1), ((1, 2), 0)])
def test_a_start_without_a_usable_version_serves_the_previous_one_or_the_base(
    followed: Any, damaged: tuple[int, ...], serving: int
) -> None:
    followed.promote(1)
    followed.promote(2)
    followed.bindings.errors = {v: CorruptAdapterError(f"tempo-v{v} is damaged") for v in damaged}
    asyncio.run(followed.follower.restore())
    assert followed.bindings.serving == serving
    assert followed.acknowledged() == (serving, 2, "tempo-v2 is damaged")


# The database ------------------------------------------------------------------------------------


class LosableSessions:
    """Sessions with a ledger whose database answers only while `answers` is true."""

    def __init__(self, sessions: Any) -> None:
        self.sessions = sessions
        self.answers = True
        self.failures = 0

    def __call__(self) -> Session:
        self._check()
        session: Session = self.sessions()
        return session

    def begin(self) -> Any:
        self._check()
        return self.sessions.begin()

    def _check(self) -> None:
        if not self.answers:
            self.failures += 1
            raise OperationalError("select", {}, Exception("gone"))


def test_without_the_database_the_version_goes_on_serving_and_the_log_says_so_once(
    followed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    followed.promote(1)
    followed.poll()
    sessions = LosableSessions(followed.sessions)
    followed.follower.context = followed.context_with(sessions)

    async def lose_the_database() -> None:
        sessions.answers = False
        task = asyncio.create_task(followed.follower.run())
        while sessions.failures < 3:
            await asyncio.sleep(0.01)
        sessions.answers = True
        while "answers again" not in caplog.text:
            await asyncio.sleep(0.01)
        task.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(lose_the_database(), 30))
    assert followed.bindings.serving == 1
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1
