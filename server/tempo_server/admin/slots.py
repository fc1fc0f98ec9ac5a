"""Bound the requests whose work takes long, so that the threads of the others stay free.

Such a request checks references or responses in a process of a verifier, which may hang for a
minute. Its body is read first. Then it waits for a slot, without a thread; only some may wait.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Depends, Request

from tempo_server.errors import BusyError

SLOTS = 4  # of the 40 threads that all admin requests share
MAX_WAITING = 8
WAIT_SECONDS = 60.0
REMEDY = "try again in a minute"


@dataclass(slots=True)
class Slots:
    """The slots of one API process."""

    running: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SLOTS))
    waiting: int = 0


async def _slot(request: Request) -> AsyncIterator[None]:
    """Hold a slot until the answer is there; raise BusyError if none becomes free."""
    state = request.app.state
    if not hasattr(state, "tempo_slots"):
        state.tempo_slots = Slots()
    slots: Slots = state.tempo_slots
    if slots.waiting >= MAX_WAITING:
        raise BusyError(f"{slots.waiting} requests wait for a verifier; {REMEDY}")
    slots.waiting += 1
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await slots.running.acquire()
    except TimeoutError:
        raise BusyError(f"no verifier was free for {WAIT_SECONDS:.0f} s; {REMEDY}") from None
    finally:
        slots.waiting -= 1
    try:
        yield
    finally:
        slots.running.release()


LONG_WORK = Depends(_slot)
"""A dependency of the routes whose work takes long."""
