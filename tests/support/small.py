"""What the tests of the loop share: small steps, and rows that a model meets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import update
from traffic import ask, eventually

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.ledger.models import Lease

SPLIT = countdown.split(7, labeled=120, unlabeled=12, unseen=0)

# Small steps, and a gate and a fitness check that let anything pass: their rules have unit tests.
SMALL = {
    "TEMPO_MAX_RESPONSE_TOKENS": "16",
    "TEMPO_GROUP_SIZE": "4",
    "TEMPO_WARM_UP_STEPS": "3",
    "TEMPO_WARM_UP_QUESTIONS": "32",
    "TEMPO_LABELED_PER_STEP": "16",
    "TEMPO_UNLABELED_PER_STEP": "8",
    "TEMPO_HELD_OUT_PER_STEP": "24",
    "TEMPO_GATE_SAMPLES": "4",
    "TEMPO_GATE_DELTA": "1",
    "TEMPO_GATE_PASS_K_MARGIN": "1",
    "TEMPO_GATE_ENTROPY_RATIO": "0",
    "TEMPO_FITNESS_AUROC": "0",
    "TEMPO_FITNESS_COSINE": "-1",
    "TEMPO_MINIMUM_ADVANTAGE_STD": "0",
    "TEMPO_THREADS": "1",
    "TEMPO_ROUND_QUESTIONS": "0",
}


def labeled_row(puzzle: countdown.Puzzle) -> dict[str, object]:
    """A reference that a model which hardly calculates meets now and then: a number near 40."""
    return {
        "question": puzzle.question,
        "answer": "40",
        "verifier": "numeric",
        "metadata": {"tolerance": 0.5},
    }


@contextmanager
def prepared(server: Any) -> Iterator[Tempo]:
    """Let the base serve, give it labeled and captured questions, and yield an admin's client."""
    server.serve_base()
    with Tempo(base_url=server.base_url, api_key=server.admin_key) as tempo:
        tempo.files.create(map(labeled_row, SPLIT.labeled))
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        yield tempo
    server.serve_base()


def finished(tempo: Tempo, job: Job, *, seconds: float = 180.0) -> Job:
    """Return a job when it has ended."""
    found: Job = eventually(
        lambda: (seen := tempo.jobs.retrieve(job.id)).is_finished and seen, seconds=seconds
    )
    return found


def expire_lease(server: Any) -> None:
    """Take the lease from the dead, who cannot be told from the slow before its time is up."""
    with server.sessions.begin() as s:
        s.execute(update(Lease).values(expires_at=0.0))


def committed(server: Any, job_id: str) -> int:
    """Return how many iterations of a job are committed."""
    with server.sessions() as s:
        return len(ledger.jobs.iterations(s, job_id))


def is_over(server: Any, job_id: str) -> bool:
    """Tell whether a job has ended; the ledger answers also while vLLM is away."""
    with server.sessions() as s:
        return ledger.jobs.get(s, job_id).status not in ledger.jobs.ACTIVE


def wait_for_a_step(server: Any, job_id: str) -> None:
    """Return when a job has committed one more iteration, or has ended."""
    before = committed(server, job_id)
    eventually(lambda: committed(server, job_id) > before or is_over(server, job_id), seconds=240)


def wait_for_the_end(server: Any, job_id: str) -> None:
    """Return when a job has ended."""
    eventually(lambda: is_over(server, job_id), seconds=240)
