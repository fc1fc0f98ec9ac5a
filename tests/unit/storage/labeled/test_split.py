"""The split of labeled questions: few labels give enough held-out questions; no split changes."""

import random

import pytest
from ledgers import user

from tempo_storage.labeled.split import (
    MAX_ASKED,
    MIN_HELD_OUT,
    assign,
    missing_labels,
    smallest_gain,
)
from tempo_storage.question_hash import content_hash


def hashes(count: int, *, start: int = 0) -> list[str]:
    return [content_hash(user(f"question {n}")) for n in range(start, start + count)]


def num_held_out(new: list[str], **stored: int) -> int:
    splits = assign(new, **stored)
    assert set(splits) == set(new)
    return list(splits.values()).count("held_out")


def in_five(names: list[str]) -> int:
    return sum(int(name[:8], 16) % 5 == 0 for name in names)


def upload(pieces: list[list[str]]) -> dict[str, str]:
    """Assign one piece after the other, as uploads do; return the split of each hash."""
    splits: dict[str, str] = {}
    for piece in pieces:
        stored = list(splits.values())
        new = assign(piece, train=stored.count("train"), held_out=stored.count("held_out"))
        splits |= new
    return splits


def cut(names: list[str], rng: random.Random, *, smallest: int) -> list[list[str]]:
    """Cut the hashes, in a random order, into pieces of random sizes from `smallest` to 100."""
    rest = rng.sample(names, len(names))
    pieces = []
    while rest:
        size = rng.randint(smallest, rng.choice([smallest, 20, 100]))
        if len(rest) - size < smallest:
            size = len(rest)
        pieces.append(rest[:size])
        rest = rest[size:]
    return pieces


@pytest.mark.parametrize(
    ("labels", "held_out"), [(0, 0), (1, 0), (8, 4), (9, 4), (63, 31), (64, 32)]
)
def test_half_of_the_first_64_labels_is_held_out(labels: int, held_out: int) -> None:
    assert num_held_out(hashes(labels), train=0, held_out=0) == held_out


@pytest.mark.parametrize("labels", [65, 160, 512, 2000])
def test_one_in_five_of_the_others_is_held_out(labels: int) -> None:
    new = hashes(labels)
    splits = assign(new, train=0, held_out=0)
    ranked = sorted(new)
    assert {splits[name] for name in ranked[:32]} == {"held_out"}
    assert {splits[name] for name in ranked[32:64]} == {"train"}
    held_out = list(splits.values()).count("held_out")
    assert held_out == 32 + in_five(ranked[64:])
    expected = 32 + (labels - 64) / 5
    assert abs(held_out - expected) <= deviation(labels)


def deviation(labels: int) -> float:
    """Return four standard deviations of the number held out, by the chance of one in five."""
    return 4 * float((max(labels - 64, 0) * 0.2 * 0.8) ** 0.5)


@pytest.mark.parametrize("labels", [8, 40, 63, 64, 100, 160, 512])
@pytest.mark.parametrize("smallest", [1, 8])
def test_files_of_any_sizes_in_any_order_hold_out_as_many_questions_as_one_file(
    labels: int, smallest: int
) -> None:
    """The numbers differ only by the chance of one in five; over 100 cuts it cancels out."""
    names = hashes(labels)
    expected = min(labels // 2, 32) + max(labels - 64, 0) / 5
    counts = []
    for seed in range(100):
        pieces = cut(names, random.Random(seed), smallest=min(smallest, labels))
        splits = upload(pieces)
        counts.append(list(splits.values()).count("held_out"))
        assert abs(counts[-1] - expected) <= deviation(labels)
        assert len(splits) == labels
    # 100 cuts share their hashes, and the residues of 448 of these have a deviation of 8.5.
    assert abs(sum(counts) / 100 - expected) <= deviation(labels) / 2


def test_a_later_file_fills_both_sides_up_to_32_and_then_adds_one_in_five() -> None:
    later = sorted(hashes(60, start=100))
    assert num_held_out(later, train=10, held_out=10) == 22 + in_five(later[44:])
    assert num_held_out(later, train=100, held_out=9) == 23 + in_five(later[23:])
    assert num_held_out(later, train=100, held_out=32) == in_five(later)
    assert num_held_out(later, train=20, held_out=50) == in_five(later[12:])
    assert num_held_out(later[:2], train=60, held_out=3) == 2


def test_the_order_of_a_file_decides_nothing() -> None:
    new = hashes(200)
    assert assign(new, train=0, held_out=0) == assign(new[::-1], train=0, held_out=0)


def test_as_many_labels_as_are_missing_make_32_held_out_questions() -> None:
    for train, held_out in ((0, 0), (4, 4), (31, 31), (32, 31), (80, 20), (100, 0), (40, 10)):
        missing = missing_labels(train, held_out)
        new = hashes(missing, start=1000)
        assert held_out + num_held_out(new, train=train, held_out=held_out) >= MIN_HELD_OUT
        fewer = held_out + num_held_out(new[1:], train=train, held_out=held_out)
        assert fewer < MIN_HELD_OUT


def test_no_label_is_missing_as_soon_as_32_are_held_out() -> None:
    for train in (0, 5, 31, 32, 500):
        assert missing_labels(train, 31) > 0
        assert missing_labels(train, 32) == missing_labels(train, 33) == 0


def test_more_held_out_questions_can_show_a_smaller_gain() -> None:
    gains = [smallest_gain(count) for count in (0, 1, 9, 32, 64, 256, 512)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == 1.0
    assert 0.1 < smallest_gain(32) < 0.2


def test_questions_beyond_those_that_the_gate_asks_show_no_smaller_gain() -> None:
    assert MAX_ASKED == 512
    assert smallest_gain(5000) == smallest_gain(512) < smallest_gain(511)
