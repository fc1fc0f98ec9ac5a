"""Record training's rollouts, and replay those that were recorded: two runs can then be compared
bit by bit. What compares versions, at the gate and in checks, is never replayed.

    <directory>/<draw>-<n>.json    {question: [response, …]}, written whole

The number of a draw tells the iteration: it comes of the run's seed and of what was drawn before,
so that a run which was killed and went on finds its own draws again. The files hold what the policy
answered to users' questions; nobody but their owner deletes them.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tempo_trainer.sampling.sampler import Prompt, Rollouts, Sample

Groups = dict[str, list[Sample]]


class RecordedRollouts:
    """Asks `source` only for what is not in `directory`, and adds its responses there."""

    def __init__(self, directory: Path, source: Rollouts) -> None:
        self._directory, self._source = directory, source
        directory.mkdir(parents=True, exist_ok=True)

    def sample(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, draw: int
    ) -> list[list[Sample]]:
        """Return `n` responses for each prompt: the recorded ones, whichever adapter gave them."""
        path = self._directory / f"{draw}-{n}.json"
        known = _read(path)
        missing = [prompt for prompt in prompts if prompt.question_id not in known]
        if missing:
            sampled = self._source.sample(missing, adapter=adapter, n=n, draw=draw)
            questions = (prompt.question_id for prompt in missing)
            fresh = dict(zip(questions, sampled, strict=True))
            _write(path, known | {q: group for q, group in fresh.items() if not _aborted(group)})
            known |= fresh
        return [known[prompt.question_id] for prompt in prompts]


def _read(path: Path) -> Groups:
    if not path.exists():
        return {}
    recorded = json.loads(path.read_text())
    return {question: [_sample(row) for row in rows] for question, rows in recorded.items()}


def _aborted(group: Sequence[Sample]) -> bool:
    return any(sample.finish_reason == "abort" for sample in group)


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(**row | {name: tuple(row[name]) for name in ("ids", "logprobs")})


def _write(path: Path, groups: Groups) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}")
    rows = {question: [asdict(sample) for sample in group] for question, group in groups.items()}
    unfinished.write_text(json.dumps(rows))
    unfinished.replace(path)
