"""The sampling arguments of a request: those that vLLM takes are kept, others are left out."""

import math
from typing import Any

import pytest

from tempo_storage.decoding import GREEDY, PLAIN, Decoding, sampling_arguments

NOTHING: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k", "max_tokens"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("temperature", 0),
        ("temperature", 0.0),
        ("top_p", 1),
        ("top_p", 0.01),
        ("top_k", 20),
        ("top_k", 0),
        ("top_k", -1),
        ("max_tokens", 1),
        ("max_tokens", 2**31 - 1),
    ],
)
def test_a_value_that_vllm_takes_is_kept(name: str, value: float) -> None:
    assert sampling_arguments({name: value, "n": 4, "seed": 1}) == NOTHING | {name: value}


@pytest.mark.parametrize("value", ["0.7", True, False, [], {}, None, math.nan, math.inf, 10**400])
@pytest.mark.parametrize("name", [*NOTHING, "max_completion_tokens"])
def test_a_value_of_another_type_is_left_out(name: str, value: Any) -> None:
    assert sampling_arguments({name: value}) == NOTHING


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 20.0),
        ("top_k", 2**31),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
    ],
)
def test_a_value_outside_vllms_range_is_left_out(name: str, value: float) -> None:
    assert sampling_arguments({name: value}) == NOTHING


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_completion_tokens": 8, "max_tokens": 16}, 8),
        ({"max_completion_tokens": None, "max_tokens": 16}, 16),
        ({"max_output_tokens": 32}, 32),
        ({"max_completion_tokens": "8", "max_tokens": 16}, 16),
    ],
)
def test_the_limit_of_a_response_has_three_names(fields: dict[str, Any], limit: int) -> None:
    assert sampling_arguments(fields)["max_tokens"] == limit


def test_one_candidate_token_or_a_temperature_that_vllm_takes_for_0_is_greedy() -> None:
    assert GREEDY.is_greedy
    assert Decoding(top_k=1).is_greedy
    assert Decoding(temperature=9e-6).is_greedy
    assert not Decoding(temperature=1e-5).is_greedy
    assert not PLAIN.is_greedy
