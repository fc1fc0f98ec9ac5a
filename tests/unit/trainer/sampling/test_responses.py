"""Questions are drawn, answered and verified; lost responses are left out, or end the attempt."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from ledgers import captured, hold_lease, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.decoding import PLAIN, Decoding
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
        self.truncated: set[str] = set()
        """Questions whose responses are cut, all but the first `finished` ones."""
        self.finished = 0

    def prompts(self, questions: list[Any]) -> list[Prompt]:
        fitting = [q for q in questions if q.content_hash not in self.too_long]
        return [Prompt(question.content_hash, (1,)) for question in fitting]

    def sample(
        self, prompts: list[Prompt], *, adapter: str, n: int, decoding: Decoding = PLAIN
    ) -> list[list[Sample]]:
        self.adapters.append(adapter)
        return [[self._sample(prompt, i) for i in range(n)] for prompt in prompts]

    def _sample(self, prompt: Prompt, number: int) -> Sample:
        cut = prompt.content_hash in self.truncated and number >= self.finished
        return Sample((2, 3), (0.0, 0.0), str(number), "length" if cut else "stop")


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
        ledger.pool.add(s, [captured(text, f"Solve {text}") for text in QUESTIONS])
    epoch = hold_lease(sessions)
    leased = LeasedSessions(sessions, lambda: epoch)
    settings = WorkerSettings(data_dir=tmp_path, group_size=4)
    return ResponseSource(settings, leased, Decks(), Server(), Verifiers())


def example() -> LabeledExample:
    return LabeledExample(content_hash="q", reference=["1"], verifier="exact", details={})


def test_labeled_rollouts_carry_the_outcomes_of_their_responses(source: ResponseSource) -> None:
    rollouts = source.labeled_rollouts("train", 2, "tempo-t1").rollouts
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
    questions = [{rollout.content_hash for rollout in draw.rollouts} for draw in draws]
    assert len(questions[0] | questions[1]) == len(QUESTIONS)
    assert source.decks.drawn == {"train": 8, "held_out": 0, "unlabeled": 0}


def test_captured_questions_that_are_too_long_are_left_out_and_counted(
    source: ResponseSource,
) -> None:
    draw = source.unlabeled_rollouts(8, "tempo-t1")
    assert {r.content_hash for r in draw.rollouts} == {q.content_hash for q in draw.questions}
    assert [q.id for q in draw.learned] == [q.id for q in draw.questions]
    assert len(draw.questions) == len(QUESTIONS)
    assert not any(rollout.labeled for rollout in draw.rollouts)
    source.sampler.too_long.add(draw.questions[0].content_hash)
    fewer = source.unlabeled_rollouts(8, "tempo-t1")
    assert len(fewer.questions) == len(QUESTIONS)  # it counts as drawn, or it would come again
    assert {q.id for q in draw.learned} - {q.id for q in fewer.learned} == {draw.questions[0].id}
    assert fewer.figures() == {
        "rollouts/tokens": 7 * 4 * 2,
        "rollouts/too_long": 1,
        "rollouts/all_truncated": 0,
    }


def test_questions_with_truncated_responses_only_are_left_out_and_counted(
    source: ResponseSource,
) -> None:
    first, second = source.unlabeled_rollouts(2, "tempo-t1").questions
    source.sampler.truncated = {first.content_hash}
    draw = source.unlabeled_rollouts(2, "tempo-t1")
    assert {r.content_hash for r in draw.rollouts} == {second.content_hash}
    assert (draw.all_truncated, draw.too_long) == (1, 0)
    assert draw.tokens == 2 * 4 * 2  # they were sampled all the same
    source.sampler.finished = 1  # one of four is an answer
    assert len(source.unlabeled_rollouts(2, "tempo-t1").rollouts) == 8


@pytest.mark.parametrize(("split", "rows"), [("train", 0), ("held_out", 4)])
def test_truncated_responses_measure_the_critic_but_do_not_train_it_alone(
    source: ResponseSource, split: str, rows: int
) -> None:
    with source.sessions.write() as s:
        for example in ledger.labeled.examples(s, "train"):
            example.split = split
            source.sampler.truncated.add(example.content_hash)
    draw = source.labeled_rollouts(split, 1, "tempo-t1")
    assert len(draw.rollouts) == rows
    assert draw.all_truncated == int(split == "train")


def test_every_question_may_be_left_out(source: ResponseSource) -> None:
    with source.sessions.read() as s:
        pool = ledger.pool.next_questions(s, 100)
        source.sampler.too_long = {row.content_hash for row in pool}
        source.sampler.too_long |= {e.content_hash for e in ledger.labeled.examples(s, "train")}
    unlabeled = source.unlabeled_rollouts(8, "tempo-t1")
    assert (unlabeled.rollouts, unlabeled.learned, unlabeled.too_long) == ([], [], 8)
    labeled_draw = source.labeled_rollouts("train", 3, "tempo-t1")
    assert (labeled_draw.rollouts, labeled_draw.too_long) == ([], 3)


def test_new_captured_questions_come_before_those_that_were_drawn(source: ResponseSource) -> None:
    draw = source.unlabeled_rollouts(8, "tempo-t1")
    with source.sessions.write() as s:
        ledger.pool.record_draws(s, draw.questions)
        ledger.pool.add(s, [captured("new", "a new one ?")])
    assert [q.id for q in source.unlabeled_rollouts(1, "tempo-t1").questions] == ["new"]


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
