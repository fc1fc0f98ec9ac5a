"""Variables for a worker that dies at a chosen moment, replays rollouts, or promotes anything.

The product has no code for this: injected/sitecustomize.py reads the variables when Python starts.
"""

from pathlib import Path

from processes import with_python_path

INJECTED = Path(__file__).parent / "injected"


def kill_at(pattern: str) -> dict[str, str]:
    """Kill the worker with -9 before the first file operation that matches a pattern.

    An operation reads as Python audits it: `os.rename /from /to -1 -1`.
    """
    return with_python_path(INJECTED) | {"INJECT_KILL": pattern}


def kill_at_checkpoint(job_id: str, position: int) -> dict[str, str]:
    """Kill the worker after an iteration's E-step and M-step, before anything of it is saved."""
    return kill_at(rf"os\.mkdir \S*/checkpoints/\.{job_id}-{position}-\d+ ")


def record_rollouts(directory: Path) -> dict[str, str]:
    """Record the rollouts of training in a directory, and replay those that are there."""
    return with_python_path(INJECTED) | {"INJECT_ROLLOUTS": str(directory)}


def any_critic() -> dict[str, str]:
    """Let the worker make M-steps with any critic; a small test has none that is proven."""
    return with_python_path(INJECTED) | {"INJECT_ANY_CRITIC": "1"}


def any_candidate() -> dict[str, str]:
    """Let the gate promote every candidate; a small test trains none that is better."""
    return with_python_path(INJECTED) | {"INJECT_ANY_CANDIDATE": "1"}
