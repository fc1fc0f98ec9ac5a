"""The strict key tells questions apart, the loose key sees through their dress, both in time."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from ledgers import user

from tempo_storage.question_hash import content_hash, loose_hash, old_hash

KEYS = (content_hash, loose_hash)
SYSTEM = {"role": "system", "content": "Be brief."}


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 * 7?", " What  is\n3\t* 7? "),
        ("Caf\u00e9", "Cafe\u0301"),
        ("6*7?", "６＊７？"),
        ("the \u212b", "the \u00c5"),
    ],
)
def test_white_space_width_and_canonical_forms_make_no_other_question(one: str, other: str) -> None:
    for key in KEYS:
        assert key(user(one)) == key(user(other))


def test_a_text_in_parts_is_the_text_of_its_lines() -> None:
    for key in KEYS:
        assert key(parts("use 4", "5 6")) == key(user("use 4\n5 6"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what's  capital of france, please"),
        ("Hello, can you tell me the capital of France.", "The capital of France"),
        ("What is 6*7?", "what is 6 * 7"),
        ("What is 3 × 7?", "What is 3 * 7 ?"),
        ("What is 3 − 7?", "Hi! What is 3 - 7? Thank you very much in advance!"),
        ("What is 3.5", "Ｗhat is 3.5."),
        ("What is 10⁻³?", "Could you please tell me: what is 10^-3?"),
        ("What is 2½ + 1?", "What is 2 1/2 + 1"),
        ("Compute f(x).", "compute f(x)"),
        ("Question: What is 6*7?\nAnswer:", "“What is 6*7?”"),
        ("What is 6*7? Let's think step by step.", "What is 6*7 /no_think"),
        ("¿Cuál es la capital?", "cuál es la capital"),
        ("ما هو؟", "ما هو"),
        ("Hey there, quick question: what is 6*7???", "**What is 6*7?**"),
        ("WHAT IS 3!?", "What is 3!"),
    ],
)
def test_the_loose_key_sees_through_case_courtesies_articles_and_punctuation(
    one: str, other: str
) -> None:
    assert loose_hash(user(one)) == loose_hash(user(other))
    assert content_hash(user(one)) != content_hash(user(other))


def test_the_loose_key_is_that_of_the_last_user_text() -> None:
    turns = [SYSTEM, *user("Hi"), {"role": "assistant", "content": "Hello"}, *user("2+2")]
    assert loose_hash(turns) == loose_hash(user("2+2"))
    assert len({content_hash(messages) for messages in (turns, turns[1:], turns[2:])}) == 3
    assert content_hash([SYSTEM, *user("2+2")]) != content_hash(user("2+2"))
    assert content_hash([SYSTEM | {"role": "user"}]) != content_hash([SYSTEM])


MATHEMATICS = (
    *("3 * 7", "3 * 8", "3 - 7", "3 + 7", "3 / 7", "3 ^ 7", "3 = 7", "3 < 7", "3 > 7", "3 ≤ 7"),
    *("3 ≥ 7", "3 ≠ 7", "37", "3.7", "3,7", "3:7", "3 7", "(3, 7)", "[3, 7]", "{3, 7}", "(3, 7]"),
    *("-3 * 7", "3 * -7", "3² * 7", "32 * 7", "3 * 7!", "3 * 7%", "|3 * 7|", "√3 * 7", "3 * 7°"),
    *("3½ * 7", "31/2 * 7", "3 * 7 km", "3 * 7 m", "$3 * 7", "€3 * 7", "3 ± 7", "3 ∪ 7", "3 ∩ 7"),
    *("log₂8", "log28", "x²y", "x²ʸ", "x₂", "x2", "x^2", "f'(x)", "f(x)", "3 * 7π", "∞", "¬3", "3"),
    *(
        "0.9",
        "0.9...",
        "{3}",
        "5'",
        "5''",
        "3 ∈ A",
        "3 ∉ A",
        "3 -7",
        "3 → 7",
        "3 ⋅ 7",
        "7 * 3",
        "3 * 7 not",
    ),
)


@pytest.mark.parametrize("key", KEYS)
def test_every_number_and_every_sign_of_mathematics_makes_another_question(
    key: Callable[[Any], str],
) -> None:
    texts: dict[str, list[str]] = {}
    for text in MATHEMATICS:
        for dressed in (text, f"What is {text}?"):
            texts.setdefault(key(user(dressed)), []).append(dressed)
    joined = [group for group in texts.values() if len(group) > 1]
    assert joined == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is it prime", "Is it not prime"),
        ("Express a in terms of b", "Express b in terms of a"),
        ("Solve for a: a + b = 1", "Solve for: + b = 1"),
        ("please", "thanks"),
        ("Add two", "Add three"),
    ],
)
def test_every_other_word_makes_another_question(one: str, other: str) -> None:
    for key in KEYS:
        assert key(user(one)) != key(user(other))


def test_a_long_instruction_with_another_item_is_another_question() -> None:
    # 96 of 98 different 5-grams of words are in both: a Jaccard similarity of 0.98.
    instruction = " ".join(f"word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(100))
    for key in KEYS:
        assert key(user(f"{instruction} cat")) != key(user(f"{instruction} dog"))


def test_questions_of_old_ledgers_are_known_by_their_old_key() -> None:
    prefixes = {
        "What's the capital of France, please": "ea12b95d014df9da",
        "3² thanks thank you": "e29c9c180c6279b0",
        "please": "56ccc4dcfc96534b",
        "Hi, can you tell me the 3.5.": "a695d02aa66bacc0",
    }
    assert {text: old_hash(user(text))[:16] for text in prefixes} == prefixes


UNITS = (
    *(
        "a ",
        "? ",
        "! ",
        ".",
        "?",
        " ?",
        "please ",
        " please",
        "thanks thank you ",
        "hi ",
        "a.",
        "é",
    ),
    *("ab!?", " - ", "the ", "²", "a²", "½", "\u0301\u0316", "'\"", "what's ", "(", "。", "3 ^ "),
    *(" answer", "=?", "\u200b", "a\n"),
)


def test_the_time_of_both_keys_grows_with_the_length_of_the_text() -> None:
    def seconds(unit: str, size: int) -> float:
        messages = user(unit * (size // len(unit.encode())))
        started = time.process_time()
        for key in (*KEYS, old_hash):
            key(messages)
        return time.process_time() - started

    for unit in UNITS:
        # 64 times the length takes 64 times the time; a quadratic key would take 4,096 times.
        short = min(seconds(unit, 2**10) for _ in range(3))
        long = min(seconds(unit, 2**16) for _ in range(2))
        assert long < 400 * short + 0.02, (unit, short, long)
        assert long < 0.5, (unit, long)
