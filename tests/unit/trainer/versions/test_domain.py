"""Texts alone tell whether users ask such questions as are labeled."""

import pytest

from tempo_lab.tasks import countdown
from tempo_trainer.versions.comparison import LEAST_LIKENESS
from tempo_trainer.versions.domain import MAX_CHARACTERS, likeness

SPLIT = countdown.split(7, labeled=60, unlabeled=40, unseen=0)
PUZZLES = [puzzle.question for puzzle in SPLIT.labeled]
CHATS = [
    "How do I reverse a linked list in Rust without unsafe code?",
    "Schreibe mir bitte einen kurzen Brief an meine Vermieterin.",
    "我想知道为什么天空是蓝色的。",
    "Which of these two contracts has the longer notice period, and why?",
    'fn main() { println!("{}", 1); } does not print, help',
]


def test_new_questions_of_the_same_kind_are_like_the_labeled_ones() -> None:
    asked = [puzzle.question for puzzle in SPLIT.unlabeled]
    assert likeness(asked, PUZZLES) > 0.9


def test_questions_of_another_kind_are_unlike_the_labeled_ones() -> None:
    assert likeness(CHATS, PUZZLES) < LEAST_LIKENESS / 2
    assert likeness(PUZZLES, CHATS * 4) < LEAST_LIKENESS


def test_a_few_other_questions_among_the_users_change_nothing() -> None:
    asked = [puzzle.question for puzzle in SPLIT.unlabeled]
    assert likeness(asked + CHATS, PUZZLES) > 0.9


@pytest.mark.parametrize(("asked", "labeled"), [([], PUZZLES), (CHATS, []), (CHATS, ["one"])])
def test_texts_that_are_missing_are_no_other_domain(asked: list[str], labeled: list[str]) -> None:
    assert likeness(asked, labeled) == 1.0


def test_labeled_questions_that_have_nothing_in_common_leave_the_domain_open() -> None:
    assert likeness(["abc"], ["abcdef", "uvwxyz"]) == 1.0


def test_case_and_white_space_are_no_other_domain() -> None:
    assert likeness([text.upper().replace(" ", "\n ") for text in PUZZLES], PUZZLES) == 1.0


def test_short_and_long_texts_are_compared_quickly() -> None:
    texts = ["", "a", "x" * 10 * MAX_CHARACTERS, "abc " * MAX_CHARACTERS]
    assert 0 <= likeness(texts, texts) <= 1
