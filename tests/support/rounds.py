"""Rounds that take seconds: small steps, and references that a weak model sometimes meets."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from injection import any_candidate, any_critic
from sqlalchemy import update
from traffic import ask
from waiting import eventually

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.ledger.models import Lease

SPLIT = countdown.split(7, labeled=120, unlabeled=12, unseen=0)

# The gate and the fitness check let anything pass: unit tests check their rules.
SMALL = {
    "TEMPO_MAX_RESPONSE_TOKENS": "16",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_WARM_UP_STEPS": "3",
    "TEMPO_WARM_UP_QUESTIONS": "32",
    "TEMPO_LABELED_PER_STEP": "16",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "24",
    "TEMPO_GATE_SAMPLES": "4",
    **any_critic(),
    **any_candidate(),
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
    "TEMPO_THREADS": "1",
    "TEMPO_ROUND_QUESTIONS": "0",
}


def labeled_row(puzzle: countdown.Puzzle) -> dict[str, object]:
    """Return a line of a labeled file; its reference, a number near 40, is easy to meet."""
    return {
        "question": puzzle.question,
        "answer": "40",
        "verifier": "numeric",
        "metadata": {"tolerance": 0.5},
    }


def upload(tempo: Tempo, puzzles: Iterable[countdown.Puzzle]) -> str:
    """Upload the puzzles as labeled questions and return the file's id."""
    return tempo.files.create(map(labeled_row, puzzles)).id


@contextmanager
def prepared(server: Any) -> Iterator[Tempo]:
    """Let the base serve, give it labeled and captured questions; yield an admin's client."""
    server.serve_base()
    with server.admin() as tempo:
        upload(tempo, SPLIT.labeled)
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        yield tempo
    server.serve_base()


# Jobs --------------------------------------------------------------------------------------------


def finished(tempo: Tempo, job: Job, *, seconds: float = 180.0) -> Job:
    """Return a job when it has ended."""
    ended: Job = eventually(
        lambda: (now := tempo.jobs.retrieve(job.id)).is_finished and now, seconds=seconds
    )
    return ended


def num_committed(server: Any, job_id: str) -> int:
    """Return the number of a job's committed iterations."""
    with server.sessions() as s:
        return len(ledger.jobs.iterations(s, job_id))


def positions(server: Any, job_id: str) -> list[int]:
    """Return the position of each committed iteration of a job; the warm-up has 0."""
    with server.sessions() as s:
        return [row.position for row in ledger.jobs.iterations(s, job_id)]


def has_ended(server: Any, job_id: str) -> bool:
    """Tell whether a job has ended; the ledger answers while vLLM is away, too."""
    with server.sessions() as s:
        return ledger.jobs.get(s, job_id).status not in ledger.jobs.ACTIVE


def wait_for_a_step(server: Any, job_id: str) -> None:
    """Return when a job has committed one more iteration, or has ended."""
    before = num_committed(server, job_id)
    eventually(
        lambda: num_committed(server, job_id) > before or has_ended(server, job_id), seconds=240
    )


def wait_for_the_end(server: Any, job_id: str) -> None:
    """Return when a job has ended."""
    eventually(lambda: has_ended(server, job_id), seconds=240)


def expire_lease(server: Any) -> None:
    """End the lease of a dead worker, which nobody can tell from a slow one before its time."""
    with server.sessions.begin() as s:
        s.execute(update(Lease).values(expires_at=0.0))
