"""Without a verifier's name a line's reference and options choose the verifier."""

import pytest

from tempo_storage.labeled.choice_of_verifier import choose_verifier
from tempo_storage.labeled.refusal import LineRefusedError


@pytest.mark.parametrize(
    ("verifier", "references"),
    [
        ("numeric", ["15", "15.", "-3", "1/2", r"\frac12", "$18", "25%", "1.5 million", "18 eggs"]),
        ("numeric", ["2,500", "<answer>7</answer>", "$7$", "6.02e23"]),
        ("math", ["12 cm", r"12 \text{ cm}^2", "90^\\circ", "x", "2x+3", "(1, 2)", "3, 5"]),
        ("math", ["3,5", "[2,5)", "x = 5", "pi/2", "sqrt(2)", "n!", r"\emptyset", "1 or 2"]),
        ("choice", ["C", "(B)", "A."]),
        ("words", ["Yes", "Paris", r"\text{Evelyn}", "True", "seven", "IV", "U.S.", "H2O", "C++"]),
        ("words", ["5:00 PM", "2024-05-01", "1914-1918", "3 Doors Down", "COVID-19"]),
        ("words", ["192.168.0.1", "^a+$", "2H2 + O2 -> 2H2O"]),
        ("numeric", ["1.234.567.890", "9 (apples)"]),
        ("math", ["$2$,$3$", "x^2 - 1 > 0"]),
        ("json_equal", ['{"a": 1}', '["a", "b"]']),
    ],
)  # fmt: skip
def test_a_reference_is_compared_as_what_it_is(verifier: str, references: list[str]) -> None:
    assert {one: choose_verifier([one], {}) for one in references} == dict.fromkeys(
        references, verifier
    )


def test_a_question_with_options_is_a_choice() -> None:
    assert choose_verifier(["7"], {"options": ["7", "9"]}) == "choice"
    assert choose_verifier(["Paris"], {"choices": {"A": "Paris"}}) == "choice"


def test_several_references_are_compared_in_the_way_that_suits_all() -> None:
    assert choose_verifier(["7", "7.0"], {}) == "numeric"
    assert choose_verifier(["7", "x+1"], {}) == "math"
    assert choose_verifier(["7", "seven dwarfs"], {}) == "words"
    assert choose_verifier(["Paris", "City of Light"], {}) == "words"


def test_a_grader_of_openai_is_the_verifier_that_does_the_same() -> None:
    for grader, verifier in [
        ({"type": "string_check", "operation": "like"}, "string_check"),
        ({"type": "text_similarity", "pass_threshold": 1.0}, "exact"),
    ]:
        assert choose_verifier(["7"], {"grader": grader}) == verifier


@pytest.mark.parametrize(
    ("grader", "reason"),
    [
        ({"type": "python", "source": "def grade(): …"}, "it runs code of the file"),
        ({"type": "score_model"}, "it asks another model"),
        ({"type": "multi"}, "it joins several scores"),
        ({"type": "text_similarity", "pass_threshold": 0.8}, "pass_threshold 1"),
        ({"type": "odd"}, "it is unknown here"),
    ],
)
def test_a_grader_that_gives_no_verdict_is_refused_with_the_reason(
    grader: dict[str, object], reason: str
) -> None:
    with pytest.raises(LineRefusedError, match=reason) as raised:
        choose_verifier(["7"], {"grader": grader})
    assert raised.value.param == "grader"
    assert "or use string_check" in str(raised.value)
