"""Questions are drawn evenly, and a resumed run draws those that the killed run would have."""

from collections import Counter

from tempo_trainer.sampling.deck import Decks, draw


def test_each_question_comes_once_before_any_comes_twice() -> None:
    items = list(range(10))
    cards = [card for start in range(0, 30, 3) for card in draw(items, 3, start=start, seed=1)]
    assert set(Counter(cards).values()) == {3}
    assert set(cards[:10]) == set(items)


def test_the_same_position_draws_the_same() -> None:
    items = list("abcdefgh")
    assert draw(items, 5, start=13, seed=2) == draw(items, 5, start=13, seed=2)
    assert draw(items, 8, start=0, seed=2) != draw(items, 8, start=0, seed=3)
    assert draw(items, 8, start=0, seed=2) != draw(items, 8, start=8, seed=2)


def test_few_questions_are_drawn_once_each() -> None:
    assert sorted(draw([1, 2], 32, start=7, seed=0)) == [1, 2]
    assert draw([], 4, start=0, seed=0) == []


def test_each_deck_goes_on_from_its_own_position() -> None:
    items = list("abcdefgh")
    decks = Decks()
    cards = decks.draw("train", items, 3, seed=2) + decks.draw("train", items, 5, seed=2)
    assert cards == draw(items, 8, start=0, seed=2)
    assert decks.draw("unlabeled", items, 3, seed=2) == cards[:3]
    assert decks.drawn == {"train": 8, "held_out": 0, "unlabeled": 3}
