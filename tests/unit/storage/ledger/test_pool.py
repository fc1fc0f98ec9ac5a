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
        hashes = [example.loose_hash, "other"]
        assert ledger.pool.asked_hashes(s, hashes) == {example.loose_hash}
        ledger.labeled.add_file(s, labeled_file(), [example])
    ask(sessions, "What's the capital of France", 3)
    with sessions() as s:
        (question,) = ledger.pool.next_questions(s, 9)
        assert question.content_hash == of("capital of France")[0]


SYSTEM = {"role": "system", "content": "Be brief."}


def test_a_labeled_question_stays_outside_behind_another_system_message_and_in_another_dress(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [held_out("What is 3 * 7?")])
    ask(sessions, "", 1, messages=[SYSTEM, *user("Hi! What is 3 × 7")])
    ask(sessions, "", 2, messages=[*user("Hi"), SYSTEM | {"role": "assistant"}, *user("3*7")])
    ask(sessions, "what is 3*7, please?", 3)
    for text in ("What is 3 * 8?", "What is 3 - 7?", "What is 3 + 7?"):
        ask(sessions, text, float(ord(text[10]) + len(text)))
    with sessions() as s:
        texts = {q.messages[-1]["content"] for q in ledger.pool.next_questions(s, 9)}
    assert texts == {"3*7", "What is 3 * 8?", "What is 3 - 7?", "What is 3 + 7?"}


def test_one_text_behind_two_system_messages_makes_two_questions(
    sessions: sessionmaker[Session],
) -> None:
    ask(sessions, "2 + 2", 1)
    ask(sessions, "", 2, messages=[SYSTEM, *user("2 + 2")])
    ask(sessions, "", 3, messages=[SYSTEM, *user(" 2 +  2")])
    with sessions() as s:
        assert ledger.pool.count(s) == (3, 2)
        assert len(ledger.pool.next_questions(s, 9)) == 2


def test_a_record_of_version_0_1_without_text_has_its_hash_as_both_keys(
    sessions: sessionmaker[Session],
) -> None:
    ask(sessions, "", 1, messages=[], content_hash="old")
    ask(sessions, "", 2, messages=[], content_hash="strict", loose_hash="loose")
    with sessions() as s:
        keys = s.execute(select(Question.content_hash, Question.loose_hash)).all()
    assert {tuple(row) for row in keys} == {("old", "old"), ("strict", "loose")}
