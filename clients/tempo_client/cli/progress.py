"""The progress of a job in one line."""

from tempo_client.types import Job

# How the phases of a job's progress read; the numbers of the step follow.
STEPS = {
    "e_step": "warm-up, E-step",
    "sampling": "iteration",
    "m_step": "iteration",
    "checking": "check, question",
}
GATE = "gating"
STAGES = {GATE: "gate", "loading": "loading the model"}


def stage(job: Job) -> str:
    """Return the step that a job makes, such as `iteration 3 of 10`; else its status."""
    progress = job.progress
    if job.is_finished:
        return job.status
    if reason := progress.get("waits_for"):
        return f"{job.status}, waits: {reason}"
    if progress.get("phase") in STAGES:
        return STAGES[progress["phase"]]
    if not progress.get("of"):
        return job.status
    name = STEPS.get(progress.get("phase", ""), job.status)
    return f"{name} {progress.get('iteration', 0)} of {progress['of']}"


def line(job: Job) -> str:
    """Return the step, its responses, their number per second, and the time that is left."""
    progress = job.progress
    parts = [stage(job)]
    if job.is_finished:
        return parts[0]
    activity = progress.get("activity", "sampling")
    if activity == "learning":
        parts.append(activity)
    elif progress.get("total"):
        parts.append(f"{activity} {progress['done']} of {progress['total']} responses")
    if rate := progress.get("rate"):
        parts.append(f"{rate:g}/s")
    if (seconds := progress.get("seconds_left")) is not None:
        parts.append(f"{_time(seconds)} left")
    return ", ".join(parts)


def share(job: Job) -> float:
    """Return the share of the stage that is done, 0 to 1."""
    progress = job.progress
    if progress.get("phase") == "queued" or not progress.get("of"):
        return float(job.is_finished)
    last = progress["of"]
    step: float = progress.get("done", 0) / max(progress.get("total", 0), 1)
    if progress.get("phase") == GATE:
        return step
    steps: float = (progress.get("iteration", 0) - 1 + step) / last
    return min(1.0, max(0.0, steps))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
