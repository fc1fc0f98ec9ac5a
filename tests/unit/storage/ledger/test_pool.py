"""The unlabeled pool: each distinct question counts once, and the pool stays within its bound."""

from typing import Any

import pytest
from ledgers import held_out, labeled_file, user
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import Question
from tempo_storage.question_hash import content_hash


def of(*texts: str) -> list[str]:
    return [content_hash(user(text)) for text in texts]


def ask(sessions: sessionmaker[Session], text: str, at: float, **changes: Any) -> None:
    record = {"id": f"q_{at:08.2f}", "messages": user(text), "captured_at": at}
    with sessions.begin() as s:
        ledger.pool.add(s, [record | changes])


def prune(sessions: sessionmaker[Session], keep: int) -> tuple[int, int]:
    with sessions.begin() as s:
        ledger.pool.prune(s, keep)
        return ledger.pool.count(s)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what's  capital of france, please"),
        ("Hello, can you tell me the capital of France.", "The capital of France"),
        ("What is 6*7?", "what is 6*7"),
        ("Ｗhat is 3.5.", "What is 3.5"),
    ],
)
def test_case_punctuation_articles_and_courtesies_make_no_other_question(
    one: str, other: str
) -> None:
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("use 3 10 15 make 15 ?", "use 3 10 15 make 16 ?"),
        ("What is 3!", "What is 3"),
        ("What is 3.5", "What is 35"),
        ("What is 2*(3+4)", "What is 2*3+4"),
        ("Is it prime", "Is it not prime"),
        ("Express a in terms of b", "Express b in terms of a"),
        ("Solve for a: a + b = 1", "Solve for: + b = 1"),
        ("please", "thanks"),
    ],
)
def test_every_number_sign_and_other_word_makes_another_question(one: str, other: str) -> None:
    assert of(one) != of(other)


def test_a_long_instruction_with_another_item_is_another_question() -> None:
    # 96 of 98 different 5-grams of words are in both: a Jaccard similarity of 0.98.
    instruction = " ".join(f"word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(100))
    assert of(f"{instruction} cat") != of(f"{instruction} dog")


def test_a_question_is_drawn_once_and_only_if_its_text_was_kept(
    sessions: sessionmaker[Session],
) -> None:
    ask(sessions, "2 + 2", 1)
    ask(sessions, "1 + 1", 2)
    ask(sessions, "1 + 1", 1.5, messages=[], content_hash=of("1 + 1")[0])
    ask(sessions, "1 + 1", 4)
    ask(sessions, "", 5, messages=[], content_hash="f" * 64)
    with sessions() as s:
        assert ledger.pool.size(s) == 2
        questions = ledger.pool.next_questions(s, 9)
        assert [q.messages for q in questions] == [user("1 + 1"), user("2 + 2")]


def test_a_question_that_was_asked_before_is_not_new(sessions: sessionmaker[Session]) -> None:
    for at, text in enumerate(("old", "new", "old", "new", "newer"), start=1):
        ask(sessions, text, at)
    ask(sessions, "", 6, messages=[], content_hash="f" * 64)  # cannot be asked again
    with sessions() as s:
        assert [ledger.pool.count_new(s, since) for since in (0, 1, 4, 5)] == [3, 2, 1, 0]


def test_the_most_recently_asked_questions_stay(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at, text in enumerate(("first", "second", "third", "fourth", "first"), start=1):
        ask(sessions, text, at)
    assert prune(sessions, 4) == (5, 4)
    monkeypatch.setattr(ledger.pool, "MAX_DELETED", 1)
    assert prune(sessions, 2) == (4, 3)  # batch by batch
    assert prune(sessions, 2) == (3, 2)
    with sessions() as s:
        assert {q.content_hash for q in ledger.pool.next_questions(s, 9)} == set(
            of("fourth", "first")
        )


def test_one_question_that_is_asked_again_and_again_does_not_fill_the_pool(
    sessions: sessionmaker[Session],
) -> None:
    for at in range(20):
        ask(sessions, "again", at)
    ask(sessions, "once", 0.5)
    assert prune(sessions, 3) == (6, 2)
    with sessions() as s:
        kept = sorted(s.scalars(select(Question.captured_at)))
    assert kept == [0.5, 15, 16, 17, 18, 19]


def test_a_labeled_question_in_other_words_never_enters_the_pool(
    sessions: sessionmaker[Session],
) -> None:
    example = held_out("What is the capital of France?", reference=["Paris"])
    ask(sessions, "capital of France", 1)
    ask(sessions, "what's the capital of France", 2)
    with sessions.begin() as s:
        hashes = [example.content_hash, "other"]
        assert ledger.pool.asked_hashes(s, hashes) == {example.content_hash}
        ledger.labeled.add_file(s, labeled_file(), [example])
    ask(sessions, "What's the capital of France", 3)
    with sessions() as s:
        (question,) = ledger.pool.next_questions(s, 9)
        assert question.content_hash == of("capital of France")[0]
