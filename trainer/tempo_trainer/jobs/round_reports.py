"""Words and figures about a round for people: progress, events, and the summary of its job."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tempo_storage.ledger.models import Iteration
from tempo_trainer.algorithm.fitness import suspicions
from tempo_trainer.algorithm.reports import EMReport
from tempo_trainer.jobs.running import WARM_UP, RunningJob
from tempo_trainer.sampling.responses import Rollouts

logger = logging.getLogger("tempo.jobs")


def change(before: float, after: float) -> str:
    """Return a change of a figure for people."""
    return " → ".join("unknown" if math.isnan(x) else f"{x:.2f}" for x in (before, after))


def announce(job: RunningJob, report: EMReport, position: int, last: int) -> None:
    """Write an iteration's progress, and events if it was refused or had steps discarded."""
    metrics = report.metrics()
    job.progress.update(metrics=metrics)
    logger.info(
        "job %s: iteration %d of %d: critic AUROC within a question %.3f, %s",
        *(job.id, position, last, report.fitness.within_auroc),
        report.refusal or "refined",
    )
    if report.refusal:
        job.add_event("m_step.refused", report.refusal, metrics, level="warning")
    discarded = sum(int(value) for name, value in metrics.items() if name.endswith("/discarded"))
    if discarded:
        message = f"{discarded} optimiser steps had a loss or gradient that is no number"
        job.add_event("step.discarded", message, metrics, level="error")


def left_out_reason(unlabeled: Rollouts) -> str:
    """Return why there is no unlabeled response to learn from, and the remedy."""
    if not unlabeled.questions:
        return "no unlabeled question is left in the pool; send questions with TEMPO_CAPTURE=on"
    return f"no unlabeled response is left: {left_out(unlabeled.too_long, unlabeled.all_truncated)}"


def left_out(too_long: int, all_truncated: int) -> str:
    """Return how many questions were left out, why, and the remedy of each."""
    parts = []
    if too_long:
        parts.append(
            f"{too_long} questions leave no room for a response (raise vLLM's --max-model-len, or"
            " lower TEMPO_MAX_RESPONSE_TOKENS)"
        )
    if all_truncated:
        parts.append(
            f"{all_truncated} questions have only responses that were cut at the length limit"
            " (raise TEMPO_MAX_RESPONSE_TOKENS)"
        )
    return "; ".join(parts)


def left_out_counts(metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the arguments of `left_out`, summed over the metrics of iterations."""
    return {
        name: sum(int(one.get(f"rollouts/{name}", 0)) for one in metrics)
        for name in ("too_long", "all_truncated")
    }


def report_left_out(job: RunningJob, rows: Sequence[Iteration]) -> None:
    """Add an event if questions were left out of the job's iterations."""
    counts = left_out_counts([row.metrics for row in rows])
    if any(counts.values()):
        message = f"draws without a usable response: {left_out(**counts)}"
        job.add_event("questions.left_out", message, counts, level="warning")


def warn_if_suspicious(job: RunningJob, rows: Sequence[Iteration]) -> None:
    """Add an event, before the gate decides, if the policy seems to please its critic alone."""
    metrics = [row.metrics for row in rows if row.position > WARM_UP]
    if signs := suspicions(metrics[0], metrics[-1]):
        job.add_event("critic.suspect", signs, metrics[-1], level="warning")


def summary_of(rows: Sequence[Iteration]) -> dict[str, Any]:
    """Return the report of a round's committed iterations, including those from before a crash."""
    last = rows[-1].metrics
    return {
        "iterations": sum(row.position > WARM_UP for row in rows),
        "e_steps": sum(int(row.metrics["e_steps"]) for row in rows),
        "m_steps": sum(row.refined for row in rows),
        "labeled_rows_in_policy": sum(
            int(row.metrics.get("m_step/labeled_rows", 0)) for row in rows
        ),
        "critic_auroc": last.get("e_step/auroc", last.get("critic_auroc")),
        "critic_within_auroc": last.get("e_step/within_auroc", last.get("critic_within_auroc")),
    }
