"""Labeled examples in the ledger: their splits, and the held-out ones for gate and sentinel."""

import hashlib
import json

import pytest
from labeled_lines import read_line
from ledgers import held_out, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import NotFoundError
from tempo_storage.ledger.models import LabeledExample
from tempo_storage.question_hash import content_hash

Sessions = sessionmaker[Session]


def examples(count: int, *, start: int = 0) -> list[LabeledExample]:
    """Return examples without a split, as they are in a file."""
    return [labeled(f"{n} + {n}", "") for n in range(start, start + count)]


def splits(s: Session) -> dict[str, str]:
    rows = [*ledger.labeled.examples(s, "train"), *ledger.labeled.examples(s, "held_out")]
    return {row.content_hash: row.split for row in rows}


def test_a_later_file_changes_no_split_and_counts_the_stored_examples(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("one"), examples(20))
        first = splits(s)
        assert ledger.labeled.count(s) == {"train": 10, "held_out": 10}
        ledger.labeled.add_file(s, labeled_file("two"), examples(44, start=100))
        assert splits(s).items() > first.items()
        assert ledger.labeled.count(s) == {"train": 32, "held_out": 32}


def test_the_gate_reads_the_same_held_out_questions_each_time(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([held_out(f"{n} + {n}") for n in range(20)])
        s.add(labeled("1 - 1"))
        every = ledger.labeled.examples(s, "held_out")
        assert ledger.labeled.held_out(s, limit=512) == every
        assert ledger.labeled.held_out(s, limit=5) == every[:5]
        assert ledger.labeled.examples(s, "held_out", limit=5) == every[:5]
        assert sorted(e.content_hash for e in every) == [e.content_hash for e in every]


@pytest.mark.parametrize(
    ("count", "limit", "size"), [(0, 9, 0), (1, 9, 1), (2, 9, 1), (64, 99, 32), (64, 5, 5)]
)
def test_the_sentinel_reads_a_random_half(
    count: int, limit: int, size: int, sessions: Sessions
) -> None:
    with sessions.begin() as s:
        s.add_all([held_out(f"{n} + {n}") for n in range(count)])
        s.add(labeled("1 - 1"))
        half = ledger.labeled.random_half(s, limit=limit)
        assert len({example.content_hash for example in half}) == len(half) == size
        assert all(example.split == "held_out" for example in half)


def test_each_half_is_drawn_anew_and_in_time_has_every_question(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([held_out(f"{n} + {n}") for n in range(64)])
        halves = [
            frozenset(e.content_hash for e in ledger.labeled.random_half(s, limit=512))
            for _ in range(20)
        ]
    assert len(set(halves)) == 20
    assert len(frozenset.union(*halves)) == 64


def test_the_digest_follows_the_held_out_questions_and_their_references(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        digests = [ledger.labeled.held_out_digest(s)]
        for example in (held_out("2 + 2"), held_out("1 + 1")):
            s.add(example)
            s.flush()
            digests.append(ledger.labeled.held_out_digest(s))
        s.add(labeled("3 + 3"))
        s.flush()
        assert ledger.labeled.held_out_digest(s) == digests[-1]
        example.reference = ["3"]
        s.flush()
        digests.append(ledger.labeled.held_out_digest(s))
        assert len(set(digests)) == 4
        every = ledger.labeled.examples(s, "held_out")
        assert ledger.labeled.digest(every[::-1]) == digests[-1]
        assert ledger.labeled.digest([example]) not in digests


def test_a_digest_is_that_of_the_gates_tests_in_older_ledgers(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([held_out("2 + 2"), held_out("1 + 1")])
        rows = [[e.content_hash, e.reference] for e in ledger.labeled.examples(s, "held_out")]
        sha256 = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        assert ledger.labeled.held_out_digest(s) == sha256


def test_the_template_arguments_of_a_line_are_stored_with_the_example(sessions: Sessions) -> None:
    line = (
        b'{"question": "1 + 1", "answer": "2", "chat_template_kwargs": {"enable_thinking": false}}'
    )
    example, notes = read_line(line)
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [example])
        s.expire_all()
        (row,) = ledger.labeled.examples(s, "train") + ledger.labeled.examples(s, "held_out")
        assert row.chat_template_kwargs == {"enable_thinking": False}
    assert notes == []


def in_file(s: Session, file_id: str) -> list[str]:
    return [e.content_hash for e in ledger.labeled.page(s, after="", limit=99, file_id=file_id)]


def test_a_deleted_file_takes_its_examples_along_except_those_of_another_file(
    sessions: Sessions,
) -> None:
    rows = examples(20)
    hashes = sorted(row.content_hash for row in rows)
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("one"), rows)
        ledger.labeled.add_file(s, labeled_file("two"), examples(4, start=100), hashes[:5])
        _, count = ledger.labeled.delete_file(s, "one")
        assert count == 15
        assert len(splits(s)) == 9
        assert set(hashes[:5]) < set(in_file(s, "two")) == splits(s).keys()
        assert [file.id for file in ledger.labeled.files(s)] == ["two"]
        with pytest.raises(NotFoundError, match="no file 'one'"):
            ledger.labeled.delete_file(s, "one")
        assert ledger.labeled.removed(s) == set(hashes[5:])
        assert ledger.labeled.delete_file(s, "two")[1] == 9
        assert splits(s) == {}


def test_a_deleted_question_that_is_labeled_again_returns_to_its_split(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("one"), examples(100))
        ledger.labeled.add_file(s, labeled_file("two"), examples(50, start=100))
        before = splits(s)
        ledger.labeled.delete_file(s, "one")
        s.expunge_all()
        ledger.labeled.add_file(s, labeled_file("three"), examples(100))
        assert {name: split for name, split in splits(s).items() if name in before} == before
        assert len(splits(s)) == 150


def test_an_example_is_read_by_the_beginning_of_its_hash(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([labeled("1", content_hash="ab12"), labeled("2", content_hash="ab3")])
        assert ledger.labeled.example(s, "ab1").content_hash == "ab12"
        for name in ("ab", "c", "%", "ab12f"):
            with pytest.raises(NotFoundError):
                ledger.labeled.example(s, name)


def test_examples_are_read_page_by_page_by_split_and_file(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("one"), examples(9))
        every = [e.content_hash for e in ledger.labeled.page(s, after="", limit=9)]
        assert every == sorted(splits(s))
        assert [e.content_hash for e in ledger.labeled.page(s, after=every[3], limit=2)] == every[
            4:6
        ]
        rows = ledger.labeled.page(s, after="", limit=9, splits=("held_out",), file_id="one")
        assert rows == ledger.labeled.held_out(s, limit=9)
        assert ledger.labeled.page(s, after="", limit=9, file_id="two") == []


def test_a_question_in_another_dress_has_the_same_split(sessions: Sessions) -> None:
    dressed = [labeled(f"What is {n} + {n}?", "") for n in range(100)]
    again = [labeled(f"hi, what is {n}+{n} please", "") for n in range(100)]
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("one"), [*dressed[:50], *again[:50]])
        ledger.labeled.add_file(s, labeled_file("two"), dressed[50:])
        ledger.labeled.add_file(s, labeled_file("three"), again[50:])
        by_hash = splits(s)
    for one, other in zip(dressed, again, strict=True):
        assert by_hash[one.content_hash] == by_hash[other.content_hash]


def test_questions_that_differ_in_the_system_message_only_have_splits_of_their_own(
    sessions: Sessions,
) -> None:
    chats = [
        [{"role": "system", "content": f"{n} + {n}"}, {"role": "user", "content": "Solve it."}]
        for n in range(20)
    ]
    with sessions.begin() as s:
        file = [labeled("", "", messages=m, content_hash=content_hash(m)) for m in chats]
        ledger.labeled.add_file(s, labeled_file(), file)
        assert ledger.labeled.count(s) == {"train": 10, "held_out": 10}
