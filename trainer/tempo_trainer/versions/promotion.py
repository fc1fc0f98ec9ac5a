"""The end of a round: record the gate's decision, promote or reject the candidate, wait.

`ledger.versions.promote` moves the serving pointer. The functions stand in the order in which a
round calls them.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Job, JobResult, ServerProcess
from tempo_trainer.errors import CancelledError
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.comparison import TestedCandidate
from tempo_trainer.versions.gate import MAX_TESTS, RESTART_TESTS, wait_rounds

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


def reason_to_wait(s: Session, held_out: str) -> str:
    """Return why this round makes no test; "" if it makes one.

    `held_out` is the digest of the questions that a test would ask. After a refusal the next test
    waits 1, 2, 4, 8, at most 16 rounds, so that small gains add up. After MAX_TESTS tests on one
    set of held-out questions nothing is tested any more.
    """
    tests = ledger.gate_tests.count(s, held_out)
    if tests >= MAX_TESTS:
        return (
            f"{tests} tests were made on these held-out questions, and one more could promote by"
            " chance; upload labeled questions until the gate asks another one (it asks the first"
            " TEMPO_GATE_QUESTIONS of the held-out ones; about one label in five is held out),"
            " promote a version by hand, or start anew with `tempo resume --new-tests`"
        )
    refusals = ledger.gate_tests.refusals(s, held_out)
    wait = wait_rounds(refusals)
    rounds = ledger.gate_tests.rounds_since(s, held_out) + 1
    if rounds >= wait:
        return ""
    return (
        f"the gate refused {refusals} tests in a row and waits, so that small gains add up: this is"
        f" round {rounds} of {wait} until the next test"
    )


def record_decision(
    sessions: LeasedSessions,
    job: Job,
    candidate: int,
    test: TestedCandidate,
    *,
    checkpoint: str,
    summary: dict[str, Any],
) -> JobResult:
    """In one transaction, record the test and, if it says so, promote the candidate.

    No later worker then decides again. Returns the result: the round's `summary` with the decision.
    The next round continues from `checkpoint`; it continues from the serving version's if the
    candidate is worse than it, or if RESTART_TESTS tests in a row promoted nothing. Raises
    CancelledError, and records nothing, if the job was cancelled or the serving version changed
    while the gate asked. A pause changes nothing.
    """
    with sessions.write() as s:
        serving = ledger.versions.locked_pointer(s).version
        # The lock makes a cancel wait until this ends, or this see the cancel.
        raise_if_cancelled(ledger.jobs.get(s, job.id, lock=True))
        raise_if_moved(s, job)
        outcome = _apply(s, job, candidate, test)
        if reason := _reason_to_restart(s, job, test):
            checkpoint = ledger.versions.checkpoint_of(s, serving)
            message = f"the policy starts again from {version_name(serving)}: {reason}"
            ledger.events.add(s, "policy.restarted", message, job_id=job.id, level="warning")
        figures = ledger.versions.adapter(s, candidate).report
        message = f"{version_name(candidate)} {outcome}: {test.decision.reason}"
        if outcome == "candidate":
            message += f"; `tempo adapters promote {version_name(candidate)}` serves it"
        report = summary | {"adapter": version_name(candidate), "gate": figures}
        result = JobResult(report=report, auroc=summary["critic_within_auroc"])
        result = _write_result(s, job.id, result, outcome, message, checkpoint)
        ledger.events.add(s, f"gate.{outcome}", message, job_id=job.id, data=figures)
    logger.info("job %s: %s", job.id, message)
    return result


def _apply(s: Session, job: Job, candidate: int, test: TestedCandidate) -> str:
    """Promote the candidate, reject it, or leave it to an operator; return the outcome."""
    row = ledger.versions.adapter(s, candidate)
    promote = test.decision.promote and job.settings.get("auto_promote", True)
    number = None  # of a test that does not count
    if _counts(job, test):
        ledger.gate_tests.record(s, job.id, candidate, promoted=promote, held_out=test.held_out)
        number = ledger.gate_tests.count(s, test.held_out)
    row.report = test.report | {"tests": number}
    if promote:
        ledger.versions.promote(s, candidate, reason=f"job {job.id}: {test.decision.reason}")
        return "promoted"
    if test.decision.promote or (test.decision.by_hand and not test.decision.is_worse):
        return "candidate"
    row.status = "rejected"
    return "rejected"


def _counts(job: Job, test: TestedCandidate) -> bool:
    """Tell whether the gate itself decides; an operator's decision is no test."""
    return bool(job.settings.get("auto_promote", True)) and test.decision.counts


def _reason_to_restart(s: Session, job: Job, test: TestedCandidate) -> str:
    """Return why the policy starts again from what serves; "" if it goes on."""
    if test.decision.is_worse:
        return "the candidate is worse than it, by a one-sided 95 % bound"
    refusals = ledger.gate_tests.refusals(s, test.held_out)
    if not _counts(job, test) or not refusals or refusals % RESTART_TESTS:
        return ""
    return (
        f"{refusals} tests in a row promoted nothing; upload more labeled questions, or change the"
        " settings, if this goes on"
    )


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
