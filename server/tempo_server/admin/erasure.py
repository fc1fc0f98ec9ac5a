"""Erase a tenant's questions wherever they are: spools, Valkey, ledger.

The ledger records the erasure first. From then on each place that passes a question on drops those
that are older. So nothing that was on its way comes back.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.ledger.scrub import scrub

SPOOL_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Erased:
    """The number of erased questions, the versions that learned from them, and what remains."""

    questions: int
    versions: list[int]
    remains: list[str]


def erase(context: Context, tenant: str) -> Erased:
    """Erase the questions that a tenant has asked so far; "" is that of the tenant anonymous."""
    with context.sessions.begin() as s:
        ledger.training.lock(s)  # the times of erasures grow in the order of their commits
        erased_at = ledger.erasures.record(s, tenant)
    remains = [*_spools(context, erased_at), *_valkey(context, {tenant: erased_at})]
    with context.sessions.begin() as s:
        set_aside = ledger.dead_letters.erase(s, tenant)
        count, versions = ledger.learned.erase(s, tenant)
    if reason := scrub(context.sessions.kw["bind"]):
        remains.append(f"traces in the database's file ({reason}): erase once more")
    return Erased(count + set_aside, versions, remains)


def _spools(context: Context, erased_at: float) -> Iterator[str]:
    """Wait until each API process has erased the questions on its disk; yield those that have not.

    A process that has ended left its files; the next one on that machine erases them first.
    """
    deadline = time.monotonic() + SPOOL_SECONDS
    while (behind := _behind(context, erased_at)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in behind:
        yield f"the spool of {process}, which has not answered; it erases them when it runs again"


def _behind(context: Context, erased_at: float) -> list[str]:
    """Return the processes that have not erased: those alive, and silent ones with questions."""
    with context.sessions() as s:
        alive = {process.id for process in ledger.versions.processes(s)}
        silent_for = ledger.versions.SILENT_SECONDS
        processes = ledger.versions.processes(s, alive_within_seconds=silent_for)
    return [
        p.id
        for p in processes
        if p.counters.get("erased_to", 0.0) < erased_at
        and (p.id in alive or p.counters.get("spooled"))
    ]


def _valkey(context: Context, times: ledger.erasures.Times) -> Iterator[str]:
    try:
        context.stream.delete(lambda question: ledger.erasures.is_erased(question, times))
        context.stream.rewrite_log()
    except StreamUnavailableError as error:
        yield f"Valkey's stream or its file ({error}): erase once more"
