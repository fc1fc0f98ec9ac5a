"""The two kinds of job: recalibrate the critic, or a round of iterations that ends at the gate."""

import logging
import time
from typing import Any

from tempo_storage import ledger
from tempo_storage.errors import InvalidInputError
from tempo_storage.ledger.models import Iteration, Job
from tempo_trainer import clock
from tempo_trainer.algorithm.fitness import suspicions, unknown_reason
from tempo_trainer.algorithm.reports import EMReport
from tempo_trainer.errors import StoppedError
from tempo_trainer.jobs.progress import go_on, set_progress
from tempo_trainer.learning.learner import Learner
from tempo_trainer.versions.promotion import decide

logger = logging.getLogger("tempo.rounds")
PAUSE_SECONDS = 0.5
DRAIN_SECONDS = 5.0  # what was asked a moment ago may still be on its way here
WARM_UP = 0  # the position of the warm-up among a job's iterations
SPOILED = 3  # optimiser steps in a row without a finite loss and gradient: training pauses


def recalibrate(learner: Learner, job: Job) -> dict[str, Any]:
    """Fit the critic to labeled questions, answered by the policy as it stands; refine nothing."""
    learner.restore(starting_checkpoint(learner, job))
    if not _committed(learner, job):
        _warm_up(learner, job, job.settings.get("max_steps") or None)
    metrics = _committed(learner, job)[0].metrics
    return metrics | _unchanged(learner, job) | {"summary": metrics["message"]}


def round_(learner: Learner, job: Job) -> dict[str, Any]:
    """Iterate, then let the gate decide whether the policy may serve."""
    learner.restore(starting_checkpoint(learner, job))
    refuse_without_questions(learner)
    steps = job.settings.get("max_steps") or learner.world.settings.iterations_per_round
    if not (done := _committed(learner, job)) and learner.progress.e_steps == 0:
        _warm_up(learner, job)
        done = _committed(learner, job)
    for position in range(done[-1].position + 1 if done else 1, steps + 1):
        go_on(learner, job)
        report, questions = learner.iterate()
        held_back = {"rollouts/held_back_seconds": learner.world.sampler.take_held_back()}
        counts = {"e_steps": 1, "m_steps": int(report.refined)}
        curve = {"e_step/reliability": report.fitness.reliability}
        metrics = report.metrics() | counts | held_back | curve | clock.take()
        learner.commit(job.id, position, metrics=metrics, questions=questions)
        _tell(learner, job.id, report, position, steps)
    go_on(learner, job)
    _watch(learner, job)
    summary = _summary(learner, job)
    if not summary["m_steps"]:
        return summary | _unchanged(learner, job)
    set_progress(learner, job.id, phase="gating", iteration=steps, of=steps)
    return summary | decide(learner, job)


def starting_checkpoint(learner: Learner, job: Job) -> str:
    """Return where a job goes on: its own last iteration, else where the last job ended.

    A rollback or a promotion by hand moves the serving pointer; training then goes on from the
    checkpoint of the version that serves: what the last job came to may be what was rolled back.
    """
    if own := _committed(learner, job):
        return own[-1].checkpoint
    with learner.world.sessions() as s:
        pointer = ledger.versions.serving(s)
        for done in ledger.jobs.find(
            s, statuses=("succeeded",), modes=ledger.jobs.TRAINING, limit=1
        ):
            if done.result.get("sequence") == pointer.sequence:
                return str(done.result["checkpoint"])
        return ledger.versions.checkpoint_of(s, pointer.version)


def refuse_without_questions(learner: Learner) -> None:
    """Raise InvalidInputError when there is nothing to learn from: no M-step could follow."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while not (questions := _pool_size(learner)) and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    with learner.world.sessions() as s:
        labeled = ledger.labeled.count(s)
    if not questions:
        raise InvalidInputError(
            "no unlabeled question was captured; send questions to the server with "
            "TEMPO_CAPTURE=on, then start the round again"
        )
    if not labeled["train"] or not labeled["held_out"]:
        raise InvalidInputError(
            f"{labeled['train']} labeled questions train the critic and {labeled['held_out']} are "
            "held out; upload a file with more questions"
        )


def _pool_size(learner: Learner) -> int:
    with learner.world.sessions() as s:
        return len(ledger.pool.distinct_hashes(s))


def _warm_up(learner: Learner, job: Job, steps: int | None = None) -> None:
    steps = steps or learner.world.settings.warm_up_steps
    set_progress(learner, job.id, phase="e_step", iteration=0, of=steps)
    adapter = learner.publish_trial()
    before = learner.fitness(adapter)
    for step in range(steps):
        go_on(learner, job)
        learner.recalibrate_once(adapter)
        set_progress(learner, job.id, phase="e_step", iteration=step + 1, of=steps)
        _stop_if_spoiled(learner, job.id)
    after = learner.fitness(adapter)
    message = f"the critic's AUROC on held-out questions: {before.auroc:.2f} → {after.auroc:.2f}"
    if why := unknown_reason(after):
        message = f"{message}: {why}"
    figures = {"auroc_before": before.auroc, "critic_auroc": after.auroc}
    metrics = {"e_steps": steps, "message": message, **figures, **clock.take()}
    learner.commit(job.id, WARM_UP, metrics=metrics, questions=[])
    level = "warning" if why else "info"
    _event(learner, job.id, "critic.recalibrated", message, metrics, level=level)


def _committed(learner: Learner, job: Job) -> list[Iteration]:
    with learner.world.sessions() as s:
        return ledger.jobs.iterations(s, job.id)


def _unchanged(learner: Learner, job: Job) -> dict[str, Any]:
    """Return the end of a job that made no candidate: the next one goes on from here."""
    return {
        "decision": "unchanged",
        "summary": "no M-step was made; the job's events say why",
        "checkpoint": learner.checkpoint,
        "sequence": job.serving_sequence,
    }


def _summary(learner: Learner, job: Job) -> dict[str, Any]:
    """Return what a round did, also before a crash, from its committed iterations."""
    rows = _committed(learner, job)
    last = rows[-1].metrics
    return {
        "iterations": sum(row.position > WARM_UP for row in rows),
        "e_steps": sum(int(row.metrics["e_steps"]) for row in rows),
        "m_steps": sum(int(row.metrics.get("m_steps", 0)) for row in rows),
        "labeled_rows_in_policy": sum(
            int(row.metrics.get("m_step/labeled_rows", 0)) for row in rows
        ),
        "critic_auroc": last.get("e_step/auroc", last.get("critic_auroc")),
    }


def _tell(learner: Learner, job_id: str, report: EMReport, position: int, steps: int) -> None:
    metrics = report.metrics()
    set_progress(learner, job_id, phase="m_step", iteration=position, of=steps, metrics=metrics)
    logger.info(
        "job %s: iteration %d of %d: critic AUROC %.3f, reward %.3f, %s",
        *(job_id, position, steps, report.fitness.auroc, report.signal.reward),
        report.refusal or "refined",
    )
    if report.refusal:
        _event(learner, job_id, "m_step.refused", report.refusal, metrics, level="warning")
    discarded = sum(int(v) for name, v in metrics.items() if name.endswith("/discarded"))
    if discarded:
        message = f"{discarded} optimiser steps had a loss or gradient that is no number"
        _event(learner, job_id, "step.discarded", message, metrics, level="error")
        _stop_if_spoiled(learner, job_id)


def _stop_if_spoiled(learner: Learner, job_id: str) -> None:
    """Pause training and raise StoppedError where more of the same would change nothing."""
    for role in (learner.networks.critic, learner.networks.policy):
        if (steps := role.optimiser.discarded) < SPOILED:
            continue
        reason = (
            f"{steps} optimiser steps of the {role.name} in a row had a loss or gradient that is no"
            f" number; cancel the job, or restart the worker with a lower"
            f" TEMPO_{role.name.upper()}_LEARNING_RATE, then resume training"
        )
        role.optimiser.discarded = 0  # whoever resumes has three more
        with ledger.leases.fenced(learner.world.sessions, learner.world.epoch()) as s:
            ledger.training.set_paused(s, True, reason)
            ledger.events.add(s, "training.spoiled", reason, job_id=job_id, level="error")
        raise StoppedError(f"training is paused: {reason}")


def _watch(learner: Learner, job: Job) -> None:
    """Warn, before the gate decides, of a policy that has come to please its critic."""
    rows = [row.metrics for row in _committed(learner, job) if row.position > WARM_UP]
    if signs := suspicions(rows[0], rows[-1]):
        _event(learner, job.id, "critic.suspect", signs, rows[-1], level="warning")


def _event(
    learner: Learner, job_id: str, type: str, message: str, data: Any, *, level: str = "info"
) -> None:
    with learner.world.sessions.begin() as s:
        ledger.events.add(s, type, message, job_id=job_id, level=level, data=data)
    logger.info("job %s: %s: %s", job_id, type, message)
