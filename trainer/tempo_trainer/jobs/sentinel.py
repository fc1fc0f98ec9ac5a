"""The sentinel: check a version after its promotion, and roll it back if it is below the base.

A check lets the serving version and the base answer a random half of the held-out questions, as
users sample and with fresh responses. Where users sample greedily, it asks all of them. It gives
way to a waiting job, but not three times in a row.

The serving version is below the base if the upper bound of their paired difference, at LEVEL over
questions, is below 0. It is rolled back after `sentinel_checks` such checks in a row. The halves
overlap, so checks are not independent; `make simulation` measures how often a version that equals
the base is rolled back, and how soon one that is ten points below it.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.ledger.models import JobResult, LabeledExample
from tempo_trainer.algorithm.intervals import t_interval
from tempo_trainer.errors import CancelledError
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.versions.answers import Answers, draw_answers, figures
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.jobs")
LEVEL = 0.025  # the share beyond the bound
MIN_HALF = 16  # questions; of fewer held-out ones than twice that, a check asks all
MIN_QUESTIONS = 2  # of one there is no standard error
QUESTIONS_AT_ONCE = 8  # between two looks for a waiting job
MAX_YIELDS = 2  # in a row; the third check is made, however many jobs wait


def check(job: RunningJob, settings: WorkerSettings, responses: ResponseSource) -> JobResult:
    """Compare the serving version with the base; roll back after `sentinel_checks` bad checks."""
    with job.sessions.read() as s:
        version = ledger.versions.serving(s).version
        decoding = ledger.pool.users_decoding(s, responses.default_decoding)
        held_out = questions_to_ask(s, decoding, limit=settings.gate_questions)
    if version == BASE:
        return JobResult(report={"summary": "there is nothing to check: the base serves"})
    examples = responses.fitting(held_out)
    if len(examples) < MIN_QUESTIONS:
        summary = (
            f"there is nothing to check: {len(examples)} held-out questions leave room for a"
            f" response, and {MIN_QUESTIONS} are needed; upload more labeled questions"
        )
        return JobResult(report={"summary": summary})
    plain = replace(PLAIN, max_tokens=decoding.max_tokens)
    samples = {
        "users": (decoding, 1 if decoding.is_greedy else settings.gate_samples),
        "greedy": (replace(plain, temperature=0.0), 1),
        "plain": (plain, settings.gate_samples),
    }
    answers: dict[tuple[str, int], list[Answers]] = defaultdict(list)
    for start in range(0, len(examples), QUESTIONS_AT_ONCE):
        job.raise_if_stopped()
        _give_way(job)
        job.set_progress(phase="checking", iteration=start, of=len(examples))
        some = examples[start : start + QUESTIONS_AT_ONCE]
        for (name, (drawn, n)), one in product(samples.items(), (BASE, version)):
            answers[name, one].append(draw_answers(responses, one, some, n, drawn))
    joined = {key: Answers.joined(parts) for key, parts in answers.items()}
    report = compared(joined["users", BASE], joined["users", version])
    accuracy = {
        role: figures(*(joined[name, one] for name in samples))
        for role, one in (("base", BASE), ("serving", version))
    }
    report |= {"accuracy": accuracy, "decoding": asdict(decoding)}
    report["too_long"] = len(held_out) - len(examples)
    return _record(job, settings, version, report)


def questions_to_ask(s: Session, decoding: Decoding, *, limit: int) -> Sequence[LabeledExample]:
    """Return a random half of the held-out questions; all, where a half would say too little.

    Greedy answers are the same in each check, so another half would be no new evidence but another
    chance of a wrong rollback.
    """
    half = ledger.labeled.random_half(s, limit=limit)
    if decoding.is_greedy or len(half) < MIN_HALF:
        return ledger.labeled.held_out(s, limit=limit)
    return half


def compared(base: Answers, serving: Answers) -> dict[str, Any]:
    """Return whether the serving version is below the base, and the figures that show it."""
    difference = serving.accuracy - base.accuracy
    against_base = t_interval(difference, tail=LEVEL)
    return {
        "below": against_base.high < 0,
        "against_base": asdict(against_base),
        "questions": len(difference),
        "responses": base.outcomes.shape[1],
    }


def _give_way(job: RunningJob) -> None:
    """Raise CancelledError if another job waits, unless the last two checks both gave way."""
    with job.sessions.read() as s:
        waiting = ledger.jobs.runnable(s)
        checks = ledger.jobs.find(s, modes=("check",), limit=MAX_YIELDS + 1)
    # A check that gave way has the reason as its error; one that an operator cancelled has none.
    gave_way = [
        check.status == "cancelled" and check.error is not None
        for check in checks
        if check.id != job.id
    ]
    if waiting and gave_way[:MAX_YIELDS] != [True] * MAX_YIELDS:
        raise CancelledError(f"gives way to {waiting[0].id}; the next check follows soon")


def _record(
    job: RunningJob, settings: WorkerSettings, version: int, figures: dict[str, Any]
) -> JobResult:
    mean = figures["against_base"]["mean"]
    high = figures["against_base"]["high"]
    summary = f"{version_name(version)} against the base: {mean:+.3f}, at most {high:+.3f}"
    with job.sessions.write() as s:
        in_a_row = _below_before(s, version) + 1 if figures["below"] else 0
        figures = figures | {"below_in_a_row": in_a_row}
        row = ledger.versions.adapter(s, version)
        row.report = row.report | {"sentinel": figures}
        serves = ledger.versions.serving(s).version == version
        if serves and in_a_row >= settings.sentinel_checks:
            summary += f"; {in_a_row} checks in a row were below it"
            _roll_back(s, job.id, version, summary, figures)
    logger.info("job %s: %s", job.id, summary)
    return JobResult(
        report={"version": version, "summary": summary, **figures},
        checked_version=version,
        below_base=figures["below"],
    )


def _roll_back(
    s: Session, job_id: str, version: int, summary: str, figures: dict[str, Any]
) -> None:
    target = ledger.versions.sound_ancestor(s, version)
    ledger.versions.reject_serving(s, version, to=target, reason=summary)
    ledger.training.set_paused(s, True, f"the sentinel rolled back: {summary}")
    type = "sentinel.rolled_back"
    message = f"{summary}; {version_name(target)} serves again"
    data = {"to": target, "from": version} | figures
    ledger.events.add(s, type, message, job_id=job_id, level="error", data=data)


def _below_before(s: Session, version: int) -> int:
    """Return how many checks in a row found `version` below the base since it serves."""
    since = ledger.versions.serving(s).changed_at
    checks = ledger.jobs.find(s, statuses=("succeeded",), modes=("check",))
    below = (
        bool(check.end.below_base) and check.created_at > since
        for check in checks
        if check.end.checked_version == version
    )
    return sum(1 for _ in itertools.takewhile(bool, below))
