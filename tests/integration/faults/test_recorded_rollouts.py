"""The replay of recorded rollouts, which test_kills.py needs to compare two runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injection import INJECTED
from ledgers import hold_lease, labeled
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker_settings import WorkerSettings

QUESTIONS = [f"{n} + {n}" for n in range(4)]


class Sampler:
    """Gives each response a new token, and counts the prompts."""

    def __init__(self) -> None:
        self.sampled: list[str] = []
        self.aborted: set[str] = set()

    def prompts(self, questions: Any) -> list[Prompt]:
        return [Prompt(question.content_hash, (1,)) for question in questions]

    def sample(
        self, prompts: list[Prompt], *, adapter: str, n: int, decoding: Decoding = PLAIN
    ) -> list[list[Sample]]:
        return [[self._respond(prompt.content_hash) for _ in range(n)] for prompt in prompts]

    def _respond(self, question: str) -> Sample:
        self.sampled.append(question)
        reason = "abort" if question in self.aborted else "stop"
        return Sample((len(self.sampled),), (-1 / 3,), "é", reason)


class Verifiers:
    def verify(self, items: list[Any]) -> list[Verdict]:
        return [Verdict(True) for _ in items]


@pytest.fixture
def new_source(
    sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Any]:
    """A function that returns a source of the same draws, as in a worker that starts anew."""
    with sessions.begin() as s:
        s.add_all(labeled(text) for text in QUESTIONS)
    epoch = hold_lease(sessions)
    leased = LeasedSessions(sessions, lambda: epoch)
    settings = WorkerSettings(data_dir=tmp_path, group_size=2)
    monkeypatch.syspath_prepend(INJECTED)
    from recorded_rollouts import record

    # Not at the top: the unit tests must import the trainer first, with its shapes checked.
    from tempo_trainer.sampling.responses import ResponseSource

    class Recorded(ResponseSource):
        """The product's class stays as it is."""

    record(Recorded, tmp_path / "rollouts", Sample)
    return lambda: Recorded(settings, leased, Decks(), Sampler(), Verifiers())


def draw(source: Any, adapter: str = "tempo-t1") -> list[Any]:
    return [r.response_ids for r in source.labeled_rollouts("train", 4, adapter).rollouts]


def test_a_second_run_gets_the_rollouts_of_the_first_and_samples_none(
    new_source: Callable[[], Any],
) -> None:
    first = new_source()
    second = new_source()
    rollouts = [draw(first), draw(first)]
    assert rollouts[0] != rollouts[1]
    assert [draw(second, "tempo-t7"), draw(second, "tempo-t8")] == rollouts
    assert second.sampler.sampled == []


def test_a_question_whose_response_was_aborted_is_sampled_again(
    new_source: Callable[[], Any], tmp_path: Path
) -> None:
    first = new_source()
    prompts = [labeled(text).content_hash for text in QUESTIONS]
    first.sampler.aborted = {prompts[1]}
    draw(first)
    (file,) = (tmp_path / "rollouts").iterdir()
    assert json.loads(file.read_text()).keys() == set(prompts) - {prompts[1]}
    second = new_source()
    draw(second)
    assert second.sampler.sampled == [prompts[1]] * 2


def test_responses_that_compare_versions_are_never_replayed(
    new_source: Callable[[], Any],
) -> None:
    source = new_source()
    for _ in range(2):
        source.sample_and_verify([labeled(QUESTIONS[0])], "tempo-v0", n=3)
    assert len(source.sampler.sampled) == 6
