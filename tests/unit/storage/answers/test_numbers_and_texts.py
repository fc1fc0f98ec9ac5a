"""Numbers, units and plain texts are read as people write them."""

from fractions import Fraction

import pytest

from tempo_storage.answers.numbers import number_text, numbers_in, only_number
from tempo_storage.answers.plain_text import folded, one_spaced, plain
from tempo_storage.answers.units import unit_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,080", 1080), (r"1{,}080", 1080), (r"12\,600", 12600), ("1 234 567", 1234567),
        ("−3", -3), ("$18", 18), ("€1,000.50", Fraction("1000.5")), ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)), (r"\frac34", Fraction(3, 4)), ("2 1/2", Fraction(5, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)), ("½", Fraction(1, 2)), ("6.02e23", 602 * 10**21),
        (r"6.02 \times 10^{23}", 602 * 10**21), ("10³", 1000), ("1.5 million", 1_500_000),
        ("1.234.567", 1234567), ("1.234,5", Fraction("1234.5")), ("3,5", Fraction("3.5")),
        ("1'000", 1000),
    ],
)  # fmt: skip
def test_a_number_is_read_in_each_notation(text: str, value: Fraction) -> None:
    number = only_number(text)
    assert number is not None
    assert number.values[0] == value


@pytest.mark.parametrize("text", ["", "x", "2-5", "18-20", "1/0", "3 eggs", "1e9999", "9" * 1001])
def test_another_text_is_no_number(text: str) -> None:
    assert only_number(text) is None


def test_a_number_with_one_point_before_three_digits_has_two_readings() -> None:
    [number] = numbers_in(number_text("9.500"))
    assert number.values == (Fraction("9.5"), 9500)


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "**Paris**",
        '"Paris"',
        "`Paris`",
        r"\text{Paris}",
        "$Paris$",
        "<b>Paris</b>.",
        "“Paris”,",
    ],
)
def test_plain_text_has_no_wrapper_and_no_punctuation_at_its_end(text: str) -> None:
    assert plain(text) == "Paris"


def test_folded_texts_ignore_case_form_and_space_but_no_letter() -> None:
    assert folded("ＮＥＷ   york!") == folded("New York")
    assert folded("café") == folded("cafe\u0301")
    assert folded("a, b") == folded("A,b")
    assert folded("C++") != folded("C")
    assert one_spaced("5!") != one_spaced("5")
    assert one_spaced("x") != one_spaced("X")


def test_units_have_powers_quotients_and_sizes() -> None:
    for left, right in [("cm^2", "square cm"), ("km/h", "km per hour"), ("hrs", "hours")]:
        assert unit_of(left) == unit_of(right) is not None
    metre, kilometre = unit_of("m"), unit_of("km")
    assert metre is not None
    assert kilometre is not None
    assert kilometre.dimensions == metre.dimensions
    assert kilometre.size == 1000 * metre.size
    assert unit_of("apples") is None
    for left, right in [("mph", "miles per hour"), ("kPa", "kilopascals"), ("m s^{-1}", "m/s")]:
        assert unit_of(left) == unit_of(right) is not None
    assert unit_of("litre") == unit_of("dm^3")
    assert [word for word in ("cats", "pies", "gas", "pens", "at", "as") if unit_of(word)] == []
    assert unit_of("cm") != unit_of("cm^2")
