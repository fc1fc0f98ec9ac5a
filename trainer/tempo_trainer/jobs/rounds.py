"""A round: iterations of sampling, recalibration and refinement; then the gate decides.

A job of mode `recalibrate` is the first part of a round alone: the warm-up of the critic.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.ledger.models import JobResult
from tempo_trainer import clock
from tempo_trainer.algorithm.within import MIN_MIXED_DRAWS
from tempo_trainer.jobs.progress import LEARNING
from tempo_trainer.jobs.round_reports import (
    announce,
    left_out_reason,
    report_left_out,
    summary_of,
    warn_if_suspicious,
)
from tempo_trainer.jobs.running import WARM_UP, RunningJob, raise_if_spoiled
from tempo_trainer.jobs.warm_up import WarmUp, is_complete
from tempo_trainer.learning.learner import Learner, joined, mixed_draws
from tempo_trainer.sampling.responses import ResponseSource, Rollouts
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.answers import AnswerBook
from tempo_trainer.versions.comparison import compare
from tempo_trainer.versions.promotion import (
    reason_to_wait,
    record_decision,
    record_refusal,
    wait_for_servers,
)
from tempo_trainer.versions.publishing import Publisher
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.jobs")
POLL_SECONDS = 0.5
DRAIN_SECONDS = 5.0  # a question that a user just asked may be on its way to the ledger
MAX_MORE_BATCHES = 8  # held-out batches of an iteration beyond the first


@dataclass(frozen=True, slots=True)
class Rounds:
    """Makes rounds and recalibrations with one learner, which stays in memory between jobs."""

    settings: WorkerSettings
    learner: Learner
    responses: ResponseSource
    publisher: Publisher
    book: AnswerBook

    def run(self, job: RunningJob) -> JobResult:
        """Make the iterations of a round, then let the gate decide on the policy.

        A worker that takes the job from a dead one goes on after the last committed iteration.
        """
        result = job.row.end
        if result.checkpoint is not None:
            return result  # its worker died after the gate's decision
        self.learner.restore(job.starting_checkpoint())
        if reason := reason_to_do_nothing(job.sessions):
            steps = dict.fromkeys(("iterations", "e_steps", "m_steps"), 0)
            return self._nothing_changed(job, steps, reason)
        rows = job.iterations()
        if not is_complete(rows) and (rows or self.learner.e_steps == 0):
            self._warm_up(job, self.settings.warm_up_steps)
        rows = job.iterations()
        first = rows[-1].position + 1 if rows else WARM_UP + 1
        last = job.row.settings.get("max_steps") or self.settings.iterations_per_round
        job.progress.begin("sampling", of=last)
        for position in range(first, last + 1):
            job.raise_if_training_stopped()
            self._iterate(job, position, last)
        job.raise_if_training_stopped()
        rows = job.iterations()
        report_left_out(job, rows)
        warn_if_suspicious(job, rows)
        if not any(row.refined for row in rows):
            refusal = rows[-1].metrics.get("refusal") or "the job's events say why"
            reason = f"no M-step was made; the last refusal: {refusal}"
            return self._nothing_changed(job, summary_of(rows), reason)
        if reason := self._reason_to_wait(job):
            return self._unchanged(job, summary_of(rows), reason)
        job.progress.begin("gating", of=last)
        job.progress.step(last, responses=self._gate_responses(job))
        return self._decide(job, summary_of(rows))

    def _warm_up(self, job: RunningJob, steps: int) -> None:
        adapter = self.publisher.publish_trial(self.learner)
        WarmUp(job, self.learner, self.responses, self.settings, adapter).run(steps)

    def _iterate(self, job: RunningJob, position: int, last: int) -> None:
        """Sample from the policy as it is, make an EM step, and commit it."""
        settings = self.settings
        responses = self.responses
        questions = (
            settings.labeled_per_step + settings.held_out_per_step + settings.unlabeled_per_step
        )
        job.progress.step(position, responses=questions * settings.group_size)
        adapter = self.publisher.publish_trial(self.learner)
        labeled = responses.labeled_rollouts("train", settings.labeled_per_step, adapter)
        held_out = self._draw_held_out(job, adapter)
        unlabeled = responses.unlabeled_rollouts(settings.unlabeled_per_step, adapter)
        job.progress.update(phase="m_step", activity=LEARNING)
        with job.sessions.read() as s:
            self.learner.forget(ledger.labeled.removed(s))
        report = self.learner.iterate(
            labeled=labeled.rollouts,
            unlabeled=unlabeled.rollouts,
            held_out=joined(draw.rollouts for draw in held_out),
            no_unlabeled=left_out_reason(unlabeled),
        )
        figures: Counter[str] = Counter()
        for draw in (labeled, *held_out, unlabeled):
            figures.update(draw.figures())
        metrics = (
            report.metrics()
            | report.fitness.curves()
            | {"e_steps": int(report.recalibrated), "m_steps": int(report.refined)}
            | {"refusal": report.refusal}
            | figures
            | {"rollouts/held_back_seconds": responses.take_held_back()}
            | clock.take()
        )
        job.commit(self.learner, position, metrics, draw=unlabeled, refined=report.refined)
        announce(job, report, position, last)
        raise_if_spoiled(job, self.learner)

    def _draw_held_out(self, job: RunningJob, adapter: str) -> list[Rollouts]:
        """Draw held-out questions; draw more while too few draws are mixed to measure the critic.

        Draws of the last iterations count, too. An event says how many more were needed.
        """
        count = self.settings.held_out_per_step
        draws = [self.responses.labeled_rollouts("held_out", count, adapter)]
        first = mixed = self._mixed_draws(draws)
        while mixed < MIN_MIXED_DRAWS and len(draws) <= MAX_MORE_BATCHES:
            draws.append(self.responses.labeled_rollouts("held_out", count, adapter))
            mixed = self._mixed_draws(draws)
        more = len(draws) - 1
        if more:
            message = (
                f"held-out questions were drawn {more} more times: {MIN_MIXED_DRAWS} draws with"
                f" right and wrong responses measure the critic, {first} were there, and now there"
                f" are {mixed}"
            )
            data = {"more": more, "mixed_before": first, "mixed_draws": mixed}
            job.add_event("critic.more_responses", message, data)
        return draws

    def _mixed_draws(self, draws: Sequence[Rollouts]) -> int:
        fresh = joined(draw.rollouts for draw in draws)
        return mixed_draws(self.learner.recent_held_out(fresh))

    def _reason_to_wait(self, job: RunningJob) -> str:
        """Return why this round makes no test, with an event that says it; "" if it makes one.

        A round whose candidate an operator wants to judge makes one whenever a question fits.
        """
        with job.sessions.read() as s:
            held_out = ledger.labeled.held_out(s, limit=self.settings.gate_questions)
            reason = reason_to_wait(s, ledger.labeled.digest(held_out))
        if not job.row.settings.get("auto_promote", True):
            reason = ""
        if not self.responses.fitting(held_out):
            reason = (
                f"none of {len(held_out)} held-out questions leaves room for a response; lower"
                f" TEMPO_MAX_RESPONSE_TOKENS ({self.settings.max_response_tokens}), or upload"
                " shorter questions"
            )
        if reason:
            job.add_event("gate.waits", reason, {}, level="warning")
        return reason

    def _gate_responses(self, job: RunningJob) -> int:
        """Return how many responses a test needs, if its first look suffices."""
        with job.sessions.read() as s:
            questions = min(ledger.labeled.count(s)["held_out"], self.settings.gate_questions)
            versions = 2 if ledger.versions.serving(s).version == BASE else 3
        greedy = 1
        return versions * questions * (greedy + self.settings.gate_samples)

    def _decide(self, job: RunningJob, summary: dict[str, Any]) -> JobResult:
        """Publish the policy as a candidate, compare it with what serves, promote or reject it."""
        sessions = job.sessions
        checkpoint = self.learner.checkpoint
        with sessions.read() as s:
            row = ledger.versions.adapter_of_job(s, job.id)  # a worker that died had published it
        if row is None:
            candidate = self.publisher.publish_candidate(self.learner, job.id)
        else:
            candidate = row.version
        tokens = sum(row.metrics.get("rollouts/tokens", 0) for row in job.iterations())
        test = compare(
            self.settings, sessions, self.responses, self.book, candidate, round_tokens=tokens
        )
        result = record_decision(
            sessions, job.row, candidate, test, checkpoint=checkpoint, summary=summary
        )
        if result.report["decision"] == "promoted":
            wait_for_servers(sessions, job.id, candidate)
            result = record_refusal(sessions, job.id, candidate, result)
        self.publisher.sweep(keep=checkpoint)
        return result

    def run_recalibration(self, job: RunningJob) -> JobResult:
        """Fit the critic to labeled questions, answered by the policy as it is; refine nothing."""
        self.learner.restore(job.starting_checkpoint())
        if not is_complete(job.iterations()):
            self._warm_up(job, job.row.settings.get("max_steps") or self.settings.warm_up_steps)
        rows = job.iterations()
        metrics = rows[-1].metrics
        e_steps = sum(int(row.metrics["e_steps"]) for row in rows)
        return self._unchanged(job, metrics | {"e_steps": e_steps}, metrics["message"])

    def _nothing_changed(self, job: RunningJob, report: dict[str, Any], reason: str) -> JobResult:
        """Return the result of a round that learned nothing; `reason` ends with the remedy."""
        return self._unchanged(job, report, f"nothing changed: {reason}")

    def _unchanged(self, job: RunningJob, report: dict[str, Any], summary: str) -> JobResult:
        """Return the result of a job that made no candidate; the next job goes on from here."""
        checkpoint = self.learner.checkpoint
        sequence = job.row.serving_sequence
        auroc = report.get("critic_within_auroc") if job.row.mode == "round" else None
        report = report | {"decision": "unchanged", "summary": summary}
        report = report | {"checkpoint": checkpoint, "sequence": sequence}
        return JobResult(report=report, checkpoint=checkpoint, sequence=sequence, auroc=auroc)


def reason_to_do_nothing(sessions: LeasedSessions) -> str:
    """Return why there is nothing to learn from, with the remedy; "" if there is something."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while not (unlabeled := _pool_size(sessions)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    with sessions.read() as s:
        labeled = ledger.labeled.count(s)
    if not unlabeled:
        return (
            "no unlabeled question was captured; send questions to the server with "
            "TEMPO_CAPTURE=on, then start the round again"
        )
    if not labeled["train"] or not labeled["held_out"]:
        return (
            f"{labeled['train']} labeled questions train the critic and {labeled['held_out']} are "
            "held out; upload a file with more questions"
        )
    return ""


def _pool_size(sessions: LeasedSessions) -> int:
    with sessions.read() as s:
        return ledger.pool.size(s)
