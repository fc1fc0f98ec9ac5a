"""Record the rollouts of training and replay them, so that two runs can be compared bit by bit.

    <directory>/<draw>.json    {question: [response, …]}, written whole

The number of questions drawn so far names a draw. It depends on nothing but the run's settings and
its committed iterations, so a run that was killed and resumed finds its own draws again. Responses
at the gate and in checks are never replayed.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

Groups = dict[str, list[Any]]


def record(source: Any, directory: Path, sample_type: type) -> None:
    """Replace the two methods of ResponseSource with which training draws rollouts."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("labeled_rollouts", "unlabeled_rollouts"):
        setattr(source, name, _recorded(getattr(source, name), directory, sample_type))


def _recorded(
    draw_rollouts: Callable[..., Any], directory: Path, sample_type: type
) -> Callable[..., Any]:
    def replayed(source: Any, *arguments: Any) -> Any:
        path = directory / f"{sum(source.decks.drawn.values())}.json"
        sampler = RecordedSampler(source.sampler, path, sample_type)
        return draw_rollouts(replace(source, sampler=sampler), *arguments)

    return replayed


class RecordedSampler:
    """Samples only the questions that the file does not hold, and adds their responses to it."""

    def __init__(self, sampler: Any, path: Path, sample_type: type) -> None:
        self._sampler = sampler
        self._path = path
        self._sample_type = sample_type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def sample(self, prompts: Sequence[Any], **options: Any) -> list[list[Any]]:
        """Return the recorded responses of each prompt, or else those that `options` ask for."""
        groups = self._read()
        missing = [prompt for prompt in prompts if prompt.content_hash not in groups]
        if missing:
            samples = self._sampler.sample(missing, **options)
            new = {p.content_hash: group for p, group in zip(missing, samples, strict=True)}
            self._write(groups | {q: group for q, group in new.items() if not _aborted(group)})
            groups |= new
        return [groups[prompt.content_hash] for prompt in prompts]

    def _read(self) -> Groups:
        if not self._path.exists():
            return {}
        rows = json.loads(self._path.read_text())
        return {question: [self._sample(row) for row in group] for question, group in rows.items()}

    def _sample(self, row: dict[str, Any]) -> Any:
        return self._sample_type(**row | {name: tuple(row[name]) for name in ("ids", "logprobs")})

    def _write(self, groups: Groups) -> None:
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        rows = {question: [asdict(s) for s in group] for question, group in groups.items()}
        unfinished.write_text(json.dumps(rows))
        unfinished.replace(self._path)


def _aborted(group: Sequence[Any]) -> bool:
    return any(sample.finish_reason == "abort" for sample in group)
