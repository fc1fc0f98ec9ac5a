"""From a round's policy to a version: publish it, let the gate compare it, promote or reject it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Adapter, Job, LabeledExample, ServerProcess
from tempo_trainer.errors import CancelledError
from tempo_trainer.learning.learner import Learner
from tempo_trainer.versions import effect
from tempo_trainer.versions.gate import Answered, GateDecision, gate
from tempo_trainer.versions.lineage import lineage_of
from tempo_trainer.versions.sweep import sweep

logger = logging.getLogger("tempo.promotion")
ACKNOWLEDGE_SECONDS = 90.0  # servers may probe for 60
BASE = ledger.versions.BASE


def decide(learner: Learner, job: Job) -> dict[str, Any]:
    """Publish the policy as a candidate, compare it at the gate, and promote it if it may serve.

    Returns the decision, and the checkpoint from which the next round goes on: a candidate that is
    worse than the serving version beyond doubt is no start for it. The decision is committed with
    the promotion, so that a worker which dies after it does not decide again.
    """
    with learner.world.sessions() as s:
        serving = ledger.versions.serving(s).version
        known = ledger.versions.adapter_of_job(s, job.id)
        if known is not None and known.report:
            return ledger.jobs.get(s, job.id).result
        refuse_if_moved(s, job)
    version = known.version if known else publish_candidate(learner, job, serving)
    result = _record(learner, job, version, serving, compare(learner, version, serving))
    if result["decision"] == "promoted":
        wait_for_servers(learner, job.id, version)
        result = _unless_refused(learner, job, version, result)
    sweep(learner.world, keep=learner.checkpoint)
    return result


def refuse_if_moved(s: Session, job: Job) -> None:
    """Raise CancelledError when another version was made to serve since the job began.

    It learned from what served then, which may be what was rolled back.
    """
    pointer = ledger.versions.serving(s)
    if pointer.sequence != job.serving_sequence:
        raise CancelledError(
            f"{version_name(pointer.version)} was made to serve since the job began; start another"
        )


def publish_candidate(learner: Learner, job: Job, parent: int) -> int:
    """Write the policy as the next version and return its number; nobody is served by it yet."""
    world = learner.world
    with world.sessions() as s:
        version, lineage = ledger.versions.next_version(s), lineage_of(learner, s)
    manifest = world.store.publish(
        version_name(version),
        lambda directory: _write(learner, directory),
        base=world.base,
        info={"job": job.id, "parent": version_name(parent), "checkpoint": learner.checkpoint},
    )
    row = Adapter(
        version=version,
        status="candidate",
        parent=parent,
        job_id=job.id,
        checkpoint=learner.checkpoint,
        sha256=manifest.sha256["adapter_model.safetensors"],
        bytes=manifest.bytes,
        lineage=lineage,
    )
    with ledger.leases.fenced(world.sessions, world.epoch()) as s:
        s.add(row)
    return version


def _write(learner: Learner, directory: Path) -> None:
    networks, settings = learner.networks, learner.world.settings
    newest_first = [rollout for rows in reversed(learner.window) for rollout in rows]
    with networks.policy.scaled(settings.serving_scale):
        networks.policy.export(directory)
        max_tokens = settings.tokens_per_microbatch
        effect.write(directory, networks, newest_first, max_tokens=max_tokens)


def compare(learner: Learner, candidate: int, serving: int) -> GateDecision:
    """Let base, serving version and candidate answer the held-out questions under vLLM."""
    first, settings, started = serving == BASE, learner.world.settings, time.monotonic()
    with learner.world.sessions() as s:
        examples, which = ledger.labeled.held_out(s, "gate", most=settings.gate_questions)
    answers = {v: answer(learner, v, examples) for v in sorted({BASE, serving, candidate})}
    decision = gate(
        answers[BASE], answers[serving], answers[candidate], first=first, settings=settings
    )
    responses = sum(answered.outcomes.size for answered in answers.values())
    cost = {"responses": responses, "seconds": round(time.monotonic() - started, 1)}
    return replace(decision, held_out=which, cost=cost)


def answer(learner: Learner, version: int, examples: Sequence[LabeledExample]) -> Answered:
    """Return a version's answers to held-out questions."""
    n = learner.world.settings.gate_samples
    _, groups, verdicts = learner.judged(examples, version_name(version), n=n)
    lengths = [len(sample.ids) for group in groups for sample in group]
    return Answered(
        outcomes=np.array([[v.outcome for v in row] for row in verdicts]).reshape(-1, n),
        answers=[[v.extracted or "" for v in row] for row in verdicts],
        mean_tokens=sum(lengths) / max(1, len(lengths)),  # of eight questions all may be too long
    )


def wait_for_servers(learner: Learner, job_id: str, version: int) -> None:
    """Return when every live server process answers with `version`; say which does not in time."""
    deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
    behind: Sequence[ServerProcess] = ()
    while time.monotonic() < deadline:
        with learner.world.sessions() as s:
            if ledger.versions.adapter(s, version).status == "corrupt":
                return
            sequence = ledger.versions.serving(s).sequence
            behind = [p for p in ledger.versions.processes(s) if p.version != version]
        if not behind:
            return
        if all(p.error and p.sequence >= sequence for p in behind):
            break  # all have refused it
        time.sleep(0.2)
    reasons = "; ".join(dict.fromkeys(p.error or p.id for p in behind))
    message = f"{version_name(version)} is promoted, but not everywhere: {reasons}"
    with learner.world.sessions.begin() as s:
        ledger.events.add(s, "adapter.behind", message, job_id=job_id, level="error")
    logger.error("promotion: %s", message)


def _record(
    learner: Learner, job: Job, version: int, serving: int, decision: GateDecision
) -> dict[str, Any]:
    world, report = learner.world, asdict(decision)
    with ledger.leases.fenced(world.sessions, world.epoch()) as s:
        ledger.versions.locked_pointer(s)
        refuse_if_moved(s, job)
        row = ledger.versions.adapter(s, version)
        row.report = report
        if not decision.promote:
            row.status = verdict = "rejected"
        elif job.settings.get("auto_promote", True):
            reason = f"job {job.id}: {decision.reason}"
            ledger.versions.promote(s, version, expected_current=serving, reason=reason)
            verdict = "promoted"
        else:
            verdict = "candidate"
        message = f"{version_name(version)} {verdict}: {decision.reason}"
        drop = decision.against_serving.high < 0
        result = {
            "decision": verdict,
            "adapter": version_name(version),
            "summary": message,
            "checkpoint": ledger.versions.checkpoint_of(s, serving) if drop else learner.checkpoint,
            "sequence": ledger.versions.serving(s).sequence,
            "gate": report,
        }
        ledger.jobs.get(s, job.id).result = result
        ledger.events.add(s, f"gate.{verdict}", message, job_id=job.id, data=report)
    logger.info("promotion: %s", message)
    return result


def _unless_refused(
    learner: Learner, job: Job, version: int, result: dict[str, Any]
) -> dict[str, Any]:
    """Return the result of a promotion, or what became of it when a server refused the version."""
    with learner.world.sessions.begin() as s:
        row, pointer = ledger.versions.adapter(s, version), ledger.versions.serving(s)
        if row.status == "corrupt":
            result = result | {
                "decision": "refused",
                "summary": row.report["corrupt"],
                "checkpoint": ledger.versions.checkpoint_of(s, pointer.version),
                "sequence": pointer.sequence,
            }
            ledger.jobs.get(s, job.id).result = result
    return result
