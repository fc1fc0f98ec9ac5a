"""Questions come round evenly, and a resumed run draws what the killed one would have drawn."""

from collections import Counter

from tempo_trainer.sampling.deck import draw


def test_each_question_comes_once_before_any_comes_twice() -> None:
    items = list(range(10))
    drawn = [x for start in range(0, 30, 3) for x in draw(items, 3, start=start, seed=1)]
    assert set(Counter(drawn).values()) == {3}
    assert set(drawn[:10]) == set(items)


def test_the_same_position_draws_the_same() -> None:
    items = list("abcdefgh")
    assert draw(items, 5, start=13, seed=2) == draw(items, 5, start=13, seed=2)
    assert draw(items, 8, start=0, seed=2) != draw(items, 8, start=0, seed=3)
    assert draw(items, 8, start=0, seed=2) != draw(items, 8, start=8, seed=2)


def test_few_questions_are_drawn_once_each() -> None:
    assert sorted(draw([1, 2], 32, start=7, seed=0)) == [1, 2]
    assert draw([], 4, start=0, seed=0) == []
