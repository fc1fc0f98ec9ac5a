"""After a promotion: is the serving version still no worse than the base? If it is, roll back.

A check lets both answer the sentinel's half of the held-out questions, afresh and behind
the users, and gives way to other jobs twice in a row at most. The serving version is below the base
where the paired bootstrap's upper 95 % bound of the difference in avg@k is below 0. Not where the
mean is: that of a version exactly as good as the base is below 0 in half of all checks, three times
in a row in one of eight. What the questions could show at all is reported as
`detectable_difference`.
"""

import itertools
import logging
from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Job, LabeledExample
from tempo_trainer.algorithm.metrics import avg_at_n, detectable_difference, paired_bootstrap
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs.progress import set_progress
from tempo_trainer.learning.learner import Learner
from tempo_trainer.versions.gate import Answered
from tempo_trainer.versions.promotion import BASE, answer

logger = logging.getLogger("tempo.sentinel")
QUESTIONS_AT_ONCE = 8  # between two looks at whether another job waits
MOST_YIELDS = 2  # in a row: the third check is made, however many jobs wait


def check(learner: Learner, job: Job) -> dict[str, Any]:
    """Compare the serving version with the base; roll back after `sentinel_checks` bad checks."""
    with learner.world.sessions() as s:
        version = ledger.versions.serving(s).version
        most = learner.world.settings.gate_questions
        examples, which = ledger.labeled.held_out(s, "sentinel", most=most)
    if version == BASE or not examples:
        return {"summary": "there is nothing to check: the base serves, or nothing is held out"}
    base, serving = _answers(learner, job, version, examples)
    return _record(learner, job, version, compared(base, serving) | {"held_out": which})


def compared(base: Answered, serving: Answered) -> dict[str, Any]:
    """Return whether the serving version is below the base, and the figures that tell."""
    difference = avg_at_n(serving.outcomes) - avg_at_n(base.outcomes)
    against_base = paired_bootstrap(difference)
    was, now = base.summary(), serving.summary()
    return {
        "below": against_base.high < 0,
        "against_base": asdict(against_base),
        "detectable_difference": detectable_difference(difference),
        "entropy_ratio": now["entropy"] / was["entropy"] if was["entropy"] else 1.0,
        "length_ratio": now["mean_tokens"] / was["mean_tokens"] if was["mean_tokens"] else 1.0,
        "samples": {"base": was, "serving": now},
        "questions": len(difference),
    }


def _answers(
    learner: Learner, job: Job, version: int, examples: list[LabeledExample]
) -> tuple[Answered, Answered]:
    parts = []
    for start in range(0, len(examples), QUESTIONS_AT_ONCE):
        _give_way(learner, job.id)
        set_progress(learner, job.id, phase="checking", iteration=start, of=len(examples))
        some = examples[start : start + QUESTIONS_AT_ONCE]
        parts.append([answer(learner, v, some) for v in (BASE, version)])
    base, serving = zip(*parts, strict=True)
    return Answered.joined(base), Answered.joined(serving)


def _give_way(learner: Learner, job_id: str) -> None:
    if learner.world.should_stop():
        raise StoppedError("the worker was told to stop")
    with learner.world.sessions() as s:
        if ledger.jobs.get(s, job_id).status == "cancelled":
            raise CancelledError(f"job {job_id} was cancelled")
        if (waiting := ledger.jobs.runnable(s)) and not _gave_way_often(s, job_id):
            raise CancelledError(f"gives way to {waiting[0].id}; the next check is not far")


def _gave_way_often(s: Session, job_id: str) -> bool:
    before = ledger.jobs.find(s, modes=("check",), limit=MOST_YIELDS + 1)
    statuses = [job.status for job in before if job.id != job_id][:MOST_YIELDS]
    return statuses == ["cancelled"] * MOST_YIELDS


def _record(learner: Learner, job: Job, version: int, figures: dict[str, Any]) -> dict[str, Any]:
    world, name = learner.world, version_name(version)
    mean, high = figures["against_base"]["mean"], figures["against_base"]["high"]
    told = f"{name} against the base: {mean:+.3f}, at most {high:+.3f}"
    with ledger.leases.fenced(world.sessions, world.epoch()) as s:
        in_a_row = _below_before(s, version) + 1 if figures["below"] else 0
        figures |= {"below_in_a_row": in_a_row, "refusals": _refusals(s)}
        row = ledger.versions.adapter(s, version)
        row.report = row.report | {"sentinel": figures}
        still = ledger.versions.serving(s).version == version
        if still and in_a_row >= world.settings.sentinel_checks:
            told += f"; {in_a_row} checks in a row were below it"
            _roll_back(s, job.id, version, told, figures)
    logger.info("sentinel: %s", told)
    return {"version": version, "summary": told, **figures}


def _roll_back(s: Session, job_id: str, version: int, told: str, figures: dict[str, Any]) -> None:
    to = ledger.versions.sound_ancestor(s, version)
    ledger.versions.reject_serving(s, version, to=to, reason=told)
    ledger.training.set_paused(s, True, f"the sentinel rolled back: {told}")
    message, data = f"{told}; {version_name(to)} serves again", {"to": to, "from": version}
    kinds = {"job_id": job_id, "level": "error"}
    ledger.events.add(s, "sentinel.rolled_back", message, data=data | figures, **kinds)


def _below_before(s: Session, version: int) -> int:
    """Return how many checks in a row, up to now, found `version` below since it serves."""
    since = ledger.versions.serving(s).changed_at
    checks = ledger.jobs.find(s, statuses=("succeeded",), modes=("check",))
    of_this = [job for job in checks if job.result.get("version") == version]
    below = (job.result["below"] and job.created_at > since for job in of_this)
    return sum(1 for _ in itertools.takewhile(bool, below))


def _refusals(s: Session) -> list[str]:
    """Return why server processes could not load or probe what they should serve."""
    return [process.error for process in ledger.versions.processes(s) if process.error]
