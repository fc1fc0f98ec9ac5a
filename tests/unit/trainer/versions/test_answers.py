"""Answers are drawn from vLLM, described by figures, and kept for the next test."""

from collections.abc import Sequence

import numpy as np
import pytest
from gates import answers
from learners import ScriptedResponses
from ledgers import held_out

from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.versions.answers import AnswerBook, Answers, Sides, draw_answers, figures

EXAMPLES = [held_out(f"{n} + {n}") for n in range(6)]
Request = tuple[int, int, Decoding]


class Drawer:
    """Draws answers whose lengths number the responses of a version from 0."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.drawn: dict[tuple[int, Decoding], int] = {}

    def __call__(
        self, version: int, examples: Sequence[LabeledExample], n: int, decoding: Decoding
    ) -> Answers:
        self.requests.append((version, n, decoding))
        first = self.drawn.get((version, decoding), 0)
        self.drawn[version, decoding] = first + n
        numbers = np.tile(np.arange(first, first + n, dtype=float), (len(examples), 1))
        texts = [[str(number) for number in row] for row in numbers]
        return Answers(np.ones_like(numbers), texts, numbers, np.zeros_like(numbers))


@pytest.fixture
def draw() -> Drawer:
    return Drawer()


def numbers(answers: Answers) -> list[float]:
    return list(answers.lengths[0])


# The book -----------------------------------------------------------------------------------------


def test_a_second_look_draws_the_responses_that_are_missing_and_no_more(draw: Drawer) -> None:
    book = AnswerBook(draw)
    book.open(EXAMPLES, (0, 1), PLAIN)
    first = book.answers(1, EXAMPLES, PLAIN, start=0, n=2)
    more = book.answers(1, EXAMPLES, PLAIN, start=2, n=3)
    assert draw.requests == [(1, 2, PLAIN), (1, 3, PLAIN)]
    assert (numbers(first), numbers(more)) == ([0, 1], [2, 3, 4])
    assert more.texts[0] == ["2.0", "3.0", "4.0"]
    assert (book.drawn_responses, book.drawn_tokens) == (6 * 5, 6 * 10)


def test_of_overlapping_responses_only_the_missing_ones_are_drawn(draw: Drawer) -> None:
    book = AnswerBook(draw)
    book.open(EXAMPLES, (0,), PLAIN)
    book.answers(0, EXAMPLES, PLAIN, start=0, n=3)
    assert numbers(book.answers(0, EXAMPLES, PLAIN, start=1, n=4)) == [1, 2, 3, 4]
    assert draw.requests == [(0, 3, PLAIN), (0, 2, PLAIN)]


def test_answers_of_base_and_serving_version_are_kept_for_the_next_test(draw: Drawer) -> None:
    book = AnswerBook(draw)
    for candidate in (2, 3):
        book.open(EXAMPLES, (0, 1), PLAIN)
        for version in (0, 1, candidate):
            assert numbers(book.answers(version, EXAMPLES, PLAIN, start=0, n=2)) == [0, 1]
    assert [version for version, *_ in draw.requests] == [0, 1, 2, 3]
    assert book.drawn_responses == 6 * 2  # of the second test alone


def test_answers_with_another_decoding_are_others(draw: Drawer) -> None:
    book = AnswerBook(draw)
    book.open(EXAMPLES, (0,), PLAIN)
    for decoding in (PLAIN, GREEDY, PLAIN):
        book.answers(0, EXAMPLES, decoding, start=0, n=1)
    assert draw.requests == [(0, 1, PLAIN), (0, 1, GREEDY)]


def test_answers_at_a_decoding_that_users_left_are_forgotten(draw: Drawer) -> None:
    book = AnswerBook(draw)
    for decoding in (PLAIN, GREEDY, PLAIN):
        book.open(EXAMPLES, (0,), decoding)
        book.answers(0, EXAMPLES, decoding, start=0, n=1)
    assert [decoding for *_, decoding in draw.requests] == [PLAIN, GREEDY, PLAIN]


def test_a_replaced_answer_is_compared_with_fresh_responses(draw: Drawer) -> None:
    book = AnswerBook(draw)
    replaced = [held_out("0 + 0", reference=["another"]), *EXAMPLES[1:]]
    for examples in (EXAMPLES, replaced):
        book.open(examples, (0,), PLAIN)
        book.answers(0, examples, PLAIN, start=0, n=1)
    assert [example.content_hash for example in replaced] == [e.content_hash for e in EXAMPLES]
    assert len(draw.requests) == 2


def test_a_promoted_version_answers_anew(draw: Drawer) -> None:
    book = AnswerBook(draw)
    book.open(EXAMPLES, (0, 1), PLAIN)
    book.answers(2, EXAMPLES, PLAIN, start=0, n=2)
    book.forget(2)
    book.open(EXAMPLES, (0, 2), PLAIN)
    assert numbers(book.answers(2, EXAMPLES, PLAIN, start=0, n=2)) == [2, 3]


def test_a_version_that_no_longer_serves_is_forgotten(draw: Drawer) -> None:
    book = AnswerBook(draw)
    for serving in (1, 2, 1):
        book.open(EXAMPLES, (0, serving), PLAIN)
        book.answers(serving, EXAMPLES, PLAIN, start=0, n=1)
    assert [version for version, *_ in draw.requests] == [1, 2, 1]


@pytest.mark.parametrize("others", [EXAMPLES[:5], [*EXAMPLES, held_out("new")], EXAMPLES[::-1]])
def test_other_questions_are_answered_anew(draw: Drawer, others: list[LabeledExample]) -> None:
    book = AnswerBook(draw)
    for examples in (EXAMPLES, others):
        book.open(examples, (0,), PLAIN)
        book.answers(0, examples, PLAIN, start=0, n=1)
    assert len(draw.requests) == 2


# Answers from vLLM --------------------------------------------------------------------------------


def test_a_version_is_asked_by_its_name_with_the_number_and_decoding_of_the_test() -> None:
    responses = ScriptedResponses(skill={"tempo-v3": 1.0})
    drawn = draw_answers(responses, 3, EXAMPLES, 2, GREEDY)
    assert responses.requests == [("tempo-v3", 2, GREEDY)]
    assert drawn.outcomes.tolist() == [[1.0, 1.0]] * 6
    assert drawn.texts == [[example.content_hash] * 2 for example in EXAMPLES]
    assert drawn.lengths.tolist() == [[3.0, 3.0]] * 6
    assert drawn.truncated.tolist() == [[0.0, 0.0]] * 6


def test_a_question_that_is_too_long_has_no_answers() -> None:
    responses = ScriptedResponses(too_long=[EXAMPLES[0].content_hash])
    assert draw_answers(responses, 0, EXAMPLES, 2, PLAIN).outcomes.shape == (5, 2)
    responses.too_long = [example.content_hash for example in EXAMPLES]
    assert draw_answers(responses, 0, EXAMPLES, 2, PLAIN).outcomes.shape == (0, 2)


# Figures ------------------------------------------------------------------------------------------


def test_the_figures_of_a_version_come_from_its_greedy_plain_and_users_answers() -> None:
    users = answers([[1, 0, 0, 0], [1, 1, 1, 1]], texts=[["7", "5", "5", ""], ["2"] * 4])
    result = figures(users, greedy=answers([[1], [1]]), plain=answers([[0], [1]]))
    assert (result["greedy"], result["users"], result["plain"]) == (1.0, 0.625, 0.5)
    assert result["majority"] == 0.5
    assert result["pass_at_8"] == 1.0  # pass@4: there are four responses
    assert result["mean_tokens"] == 10.0
    assert result["truncated"] == 0.0
    assert result["entropy"] == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(4)) / 2)


def test_figures_of_several_answers_are_plain_ones_where_users_sample_greedily() -> None:
    one = answers([[1], [0]])
    plain = answers([[1, 1, 0, 0], [1, 1, 1, 0]])
    result = figures(one, greedy=one, plain=plain)
    assert (result["users"], result["pass_at_8"]) == (0.5, 1.0)
    assert result["entropy"] > 0
    assert result["majority"] == figures(plain, one, plain)["majority"]


def test_the_texts_of_right_answers_are_those_that_the_verifier_read() -> None:
    read = answers([[1, 0], [1, 1]], texts=[["7", "8"], ["", "9"]])
    assert read.right_texts == ["7", "9"]


def test_pass_at_8_is_unbiased() -> None:
    one_of_sixteen = answers([[1] + [0] * 15])
    assert one_of_sixteen.pass_at_8.tolist() == [0.5]


def test_while_the_base_serves_it_is_the_only_rival() -> None:
    base = answers([[0]])
    candidate = answers([[1]])
    sides = Sides.of({0: base, 2: candidate}, serving=0, candidate=2)
    assert sides.serving is sides.base
    assert list(sides.rivals()) == ["the base"]
    longer = sides.extended(sides)
    assert longer.serving is longer.base
    assert longer.candidate.outcomes.shape == (1, 2)


def test_a_version_that_serves_is_a_rival_beside_the_base() -> None:
    right = answers([[1]])
    sides = Sides.of({0: answers([[0]]), 1: right, 2: right}, serving=1, candidate=2)
    assert sides.rivals() == {"the serving version": right, "the base": sides.base}
