"""The end of a round: compare the candidate with what serves, promote or reject it, wait.

`ledger.versions.promote` moves the serving pointer. The functions stand in the order in which a
round calls them.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name
from tempo_storage.ledger.models import Job, JobResult, LabeledExample, ServerProcess
from tempo_trainer.errors import CancelledError
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.gate import Answers, GateDecision, gate
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.versions")
ACKNOWLEDGE_SECONDS = 90.0  # a server process may probe a new version for 60
POLL_SECONDS = 0.2


def raise_if_cancelled(job: Job) -> None:
    """Raise CancelledError if an operator cancelled the job before its row was read."""
    if job.status == "cancelled":
        raise CancelledError(f"job {job.id} was cancelled")


def raise_if_moved(s: Session, job: Job) -> None:
    """Raise CancelledError if the serving version changed after the job began.

    The job continued from the version that served at its start. That version may have been rolled
    back since.
    """
    pointer = ledger.versions.serving(s)
    if pointer.sequence != job.serving_sequence:
        raise CancelledError(
            f"the serving version changed to {version_name(pointer.version)} since the job began;"
            " start another"
        )


def answer(
    responses: ResponseSource, version: int, examples: Sequence[LabeledExample], *, n: int
) -> Answers:
    """Return a version's `n` answers to each held-out question that is not too long."""
    verified = responses.sample_and_verify(examples, version_name(version), n=n)
    lengths = [len(sample.ids) for group in verified.samples for sample in group]
    return Answers(
        outcomes=np.array(verified.outcomes).reshape(-1, n),
        texts=[[verdict.extracted or "" for verdict in row] for row in verified.verdicts],
        mean_tokens=sum(lengths) / max(1, len(lengths)),  # all questions may be too long
    )


def compare(
    settings: WorkerSettings, sessions: LeasedSessions, responses: ResponseSource, candidate: int
) -> GateDecision:
    """Let base, serving version and candidate answer under vLLM, and return the gate's decision."""
    started = time.monotonic()
    with sessions.read() as s:
        serving = ledger.versions.serving(s).version
        examples = ledger.labeled.held_out(s, limit=settings.gate_questions)
        part = f"{len(examples)} held-out questions"
    answers = {
        version: answer(responses, version, examples, n=settings.gate_samples)
        for version in sorted({BASE, serving, candidate})
    }
    three = (answers[BASE], answers[serving], answers[candidate])
    decision = gate(*three, base_serves=serving == BASE, settings=settings)
    count = sum(each.outcomes.size for each in answers.values())
    cost = {"responses": count, "seconds": round(time.monotonic() - started, 1)}
    return replace(decision, held_out=part, cost=cost)


def record_decision(
    sessions: LeasedSessions,
    job: Job,
    candidate: int,
    decision: GateDecision,
    *,
    checkpoint: str,
    summary: dict[str, Any],
) -> JobResult:
    """In one transaction, record the decision and, if it says so, promote the candidate.

    No later worker then decides again. Returns the result: the round's `summary` with the decision.
    The next round continues from `checkpoint`, but from the serving version's if the candidate is
    certainly worse than it. Raises CancelledError, and records nothing, if the job was cancelled or
    the serving version changed while the gate asked. A pause changes nothing.
    """
    with sessions.write() as s:
        serving = ledger.versions.locked_pointer(s).version
        # The lock makes a cancel wait until this ends, or this see the cancel.
        raise_if_cancelled(ledger.jobs.get(s, job.id, lock=True))
        raise_if_moved(s, job)
        outcome = _apply(s, job, candidate, decision)
        if decision.against_serving.high < 0:
            checkpoint = ledger.versions.checkpoint_of(s, serving)
        message = f"{version_name(candidate)} {outcome}: {decision.reason}"
        figures = asdict(decision)
        report = summary | {"adapter": version_name(candidate), "gate": figures}
        result = JobResult(report=report, auroc=summary["critic_auroc"])
        result = _write_result(s, job.id, result, outcome, message, checkpoint)
        ledger.events.add(s, f"gate.{outcome}", message, job_id=job.id, data=figures)
    logger.info("job %s: %s", job.id, message)
    return result


def _apply(s: Session, job: Job, candidate: int, decision: GateDecision) -> str:
    """Promote the candidate, reject it, or leave it to an operator; return the outcome."""
    row = ledger.versions.adapter(s, candidate)
    row.report = asdict(decision)
    if not decision.promote:
        row.status = "rejected"
        return "rejected"
    if not job.settings.get("auto_promote", True):
        return "candidate"
    ledger.versions.promote(s, candidate, reason=f"job {job.id}: {decision.reason}")
    return "promoted"


def wait_for_servers(sessions: LeasedSessions, job_id: str, version: int) -> None:
    """Wait until every live server process answers with `version`, or one found it corrupt.

    After 90 seconds, or as soon as all that are behind refuse it, add an event that names them.
    """
    deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
    behind: Sequence[ServerProcess] = ()
    while time.monotonic() < deadline:
        with sessions.read() as s:
            if ledger.versions.adapter(s, version).status == "corrupt":
                return
            sequence = ledger.versions.serving(s).sequence
            behind = ledger.versions.processes_behind(s)
        if not behind:
            return
        if all(process.error and process.sequence >= sequence for process in behind):
            break
        time.sleep(POLL_SECONDS)
    reasons = "; ".join(dict.fromkeys(process.error or process.id for process in behind))
    message = f"{version_name(version)} is promoted, but not everywhere: {reasons}"
    with sessions.write() as s:
        ledger.events.add(s, "adapter.behind", message, job_id=job_id, level="error")
    logger.error("job %s: %s", job_id, message)


def record_refusal(
    sessions: LeasedSessions, job_id: str, version: int, result: JobResult
) -> JobResult:
    """Return the result; change it to `refused` if a server found `version` corrupt."""
    with sessions.write() as s:
        row = ledger.versions.adapter(s, version)
        if row.status != "corrupt":
            return result
        serving = ledger.versions.serving(s).version
        checkpoint = ledger.versions.checkpoint_of(s, serving)
        return _write_result(s, job_id, result, "refused", row.report["corrupt"], checkpoint)


def _write_result(
    s: Session, job_id: str, result: JobResult, decision: str, message: str, checkpoint: str
) -> JobResult:
    """Write a decision into the job's row, and return the result that has it."""
    sequence = ledger.versions.serving(s).sequence
    fields = {
        "decision": decision,
        "summary": message,
        "checkpoint": checkpoint,
        "sequence": sequence,
    }
    result = replace(
        result, report=result.report | fields, checkpoint=checkpoint, sequence=sequence
    )
    ledger.jobs.get(s, job_id).end = result
    return result
