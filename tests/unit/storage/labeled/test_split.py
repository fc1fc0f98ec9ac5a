"""The split of labeled questions: few labels give enough held-out questions; no split changes."""

import pytest
from ledgers import user

from tempo_storage.labeled.split import (
    MIN_HELD_OUT,
    assign,
    missing_labels,
    promotion_note,
    smallest_gain,
)
from tempo_storage.question_hash import content_hash


def hashes(count: int, *, start: int = 0) -> list[str]:
    return [content_hash(user(f"question {n}")) for n in range(start, start + count)]


def num_held_out(new: list[str], **stored: int) -> int:
    splits = assign(new, **stored)
    assert set(splits) == set(new)
    return list(splits.values()).count("held_out")


@pytest.mark.parametrize(("labels", "held_out"), [(0, 0), (1, 0), (8, 4), (9, 4), (63, 31)])
def test_half_of_few_labels_is_held_out(labels: int, held_out: int) -> None:
    assert num_held_out(hashes(labels), train=0, held_out=0) == held_out


@pytest.mark.parametrize("labels", [64, 100, 150])
def test_at_least_32_questions_are_held_out_of_64_and_more(labels: int) -> None:
    new = hashes(labels)
    in_five = sum(int(name[:8], 16) % 5 == 0 for name in new)
    assert num_held_out(new, train=0, held_out=0) == max(MIN_HELD_OUT, in_five)


def test_one_in_five_of_many_questions_is_held_out() -> None:
    new = hashes(2000)
    splits = assign(new, train=0, held_out=0)
    assert {name for name in new if splits[name] == "held_out"} == {
        name for name in new if int(name[:8], 16) % 5 == 0
    }


def test_a_later_file_fills_the_held_out_questions_up_to_32_and_then_adds_one_in_five() -> None:
    later = hashes(60, start=100)
    in_five = sum(int(name[:8], 16) % 5 == 0 for name in later)
    assert num_held_out(later, train=10, held_out=10) == 22
    assert num_held_out(later, train=100, held_out=9) == 23
    assert num_held_out(later, train=100, held_out=32) == in_five
    assert num_held_out(later[:2], train=60, held_out=3) == 2


def test_the_order_of_a_file_decides_nothing() -> None:
    new = hashes(40)
    assert assign(new, train=0, held_out=0) == assign(new[::-1], train=0, held_out=0)


def test_as_many_labels_as_are_missing_make_32_held_out_questions() -> None:
    for train, held_out in ((0, 0), (4, 4), (31, 32), (32, 31), (80, 20), (100, 0), (40, 10)):
        missing = missing_labels(train, held_out)
        new = hashes(missing, start=1000)
        assert held_out + num_held_out(new, train=train, held_out=held_out) >= MIN_HELD_OUT
        assert missing == 0 or str(missing) in promotion_note(train, held_out)
    assert missing_labels(32, 32) == missing_labels(200, 50) == 0
    assert promotion_note(32, 32) == ""


def test_more_held_out_questions_can_show_a_smaller_gain() -> None:
    gains = [smallest_gain(count) for count in (0, 1, 9, 32, 64, 256)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == 1.0
    assert 0.1 < smallest_gain(32) < 0.2
