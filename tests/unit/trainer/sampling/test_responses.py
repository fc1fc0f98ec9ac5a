"""Questions are drawn, answered and verified; lost responses are left out, or end the attempt."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from ledgers import captured, hold_lease, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.sampling.responses import ResponseSource, rollouts_of
from tempo_trainer.sampling.sampler import Prompt, Sample, SamplingError
from tempo_trainer.sampling.verifier_pool import TIMED_OUT, Item, VerifierError
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker_settings import WorkerSettings

QUESTIONS = [f"{n} + {n}" for n in range(8)]


class Server:
    """Answers each prompt with the numbers of its responses; long questions have no room."""

    def __init__(self) -> None:
        self.adapters: list[str] = []
        self.too_long: set[str] = set()

    def prompts(self, questions: list[Any]) -> list[Prompt]:
        fitting = [q for q in questions if q.content_hash not in self.too_long]
        return [Prompt(question.content_hash, (1,)) for question in fitting]

    def sample(self, prompts: list[Prompt], *, adapter: str, n: int) -> list[list[Sample]]:
        self.adapters.append(adapter)
        return [[Sample((2,), (0.0,), str(i), "stop") for i in range(n)] for _ in prompts]


class Verifiers:
    """Gives no verdict on the first `failing` responses; of the others even numbers are right."""

    failing = 0

    def verify(self, items: list[Item]) -> list[Verdict]:
        return [
            TIMED_OUT if int(item.response) < self.failing else Verdict(int(item.response) % 2 == 0)
            for item in items
        ]


@pytest.fixture
def source(sessions: sessionmaker[Session], tmp_path: Path) -> ResponseSource:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all([labeled(text) for text in QUESTIONS])
        ledger.pool.add(s, [captured(text, f"{text} ?") for text in QUESTIONS])
    epoch = hold_lease(sessions)
    leased = LeasedSessions(sessions, lambda: epoch)
    settings = WorkerSettings(data_dir=tmp_path, group_size=4)
    return ResponseSource(settings, leased, Decks(), Server(), Verifiers())


def example() -> LabeledExample:
    return LabeledExample(content_hash="q", reference=["1"], verifier="exact", details={})


def test_labeled_rollouts_carry_the_outcomes_of_their_responses(source: ResponseSource) -> None:
    rollouts = source.labeled_rollouts("train", 2, "tempo-t1")
    assert [(r.group, r.labeled, r.outcome) for r in rollouts[:5]] == [
        (0, True, 1.0),
        (0, True, -1.0),
        (0, True, 1.0),
        (0, True, -1.0),
        (1, True, 1.0),
    ]
    assert source.sampler.adapters == ["tempo-t1"]


def test_a_deck_goes_on_where_the_last_draw_ended(source: ResponseSource) -> None:
    draws = [source.labeled_rollouts("train", 4, "tempo-v0") for _ in range(2)]
    questions = [{rollout.content_hash for rollout in rollouts} for rollouts in draws]
    assert len(questions[0] | questions[1]) == len(QUESTIONS)
    assert source.decks.drawn == {"train": 8, "held_out": 0, "unlabeled": 0}


def test_only_captured_questions_that_were_sampled_are_returned(source: ResponseSource) -> None:
    rollouts, questions = source.unlabeled_rollouts(8, "tempo-t1")
    assert {r.content_hash for r in rollouts} == {q.content_hash for q in questions}
    assert len(questions) == len(QUESTIONS)
    assert not any(rollout.labeled for rollout in rollouts)
    source.sampler.too_long.add(questions[0].content_hash)
    _, fewer = source.unlabeled_rollouts(8, "tempo-t1")
    assert {q.id for q in questions} - {q.id for q in fewer} == {questions[0].id}


@pytest.mark.parametrize("failing", [8, 9])
def test_training_stops_where_a_verifier_fails_on_most_responses(
    source: ResponseSource, failing: int
) -> None:
    source.verifiers.failing = failing

    def refused() -> AbstractContextManager[object]:
        words = r"no verdict on 9 of 16 responses.*'timeout'"
        return pytest.raises(VerifierError, match=words) if failing == 9 else nullcontext()

    with refused():
        source.sample_and_verify([example()], "tempo-v0", n=16)
    verified = source.sample_and_verify([example()], "tempo-v1", n=16)
    assert verified.outcomes[0][:failing] == [-1.0] * failing  # the responses may be at fault
    sixteen = source.settings.model_copy(update={"group_size": 16})
    trained = ResponseSource(sixteen, source.sessions, Decks(), source.sampler, source.verifiers)
    with refused():
        trained.labeled_rollouts("train", 1, "tempo-v1")


@pytest.mark.parametrize("lost", [Sample((2,), (0.0,), "4", "abort"), Sample((), (), "", "stop")])
def test_a_job_is_tried_again_if_every_response_was_lost(lost: Sample) -> None:
    prompt = Prompt("q", (1,))
    with pytest.raises(SamplingError, match="tempo-v1: each of 2 responses was aborted or empty"):
        rollouts_of([prompt], [[lost, lost]], "tempo-v1", None)
    assert rollouts_of([], [], "tempo-v1", None) == []  # all questions are too long
    whole = Sample((2,), (0.0,), "4", "stop")
    rollouts = rollouts_of([prompt], [[lost, whole]], "tempo-v1", None)
    assert [rollout.finish_reason for rollout in rollouts] == ["stop"]
