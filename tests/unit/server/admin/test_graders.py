"""A grader is tried on one response, by OpenAI's routes."""

from typing import Any

import pytest

from tempo_server.admin import references

GRADERS = "/tempo/v1/fine_tuning/alpha/graders"
CHECK = {"type": "string_check", "name": "equal", "operation": "eq"} | {
    "input": "{{sample.output_text}}",
    "reference": "{{ item.answer }}",
}
MATH = {"type": "verifier", "verifier": "math", "reference": ["{{item.answer}}"]}


def run(admin: Any, grader: Any, sample: str, **item: Any) -> Any:
    body = {"grader": grader, "model_sample": sample, "item": item}
    return admin("POST", f"{GRADERS}/run", json=body)


@pytest.mark.parametrize(
    ("operation", "sample", "reward"),
    [
        ("eq", "Paris", 1.0),
        ("eq", "paris", 0.0),
        ("eq", "Paris.", 0.0),
        ("ne", "Paris", 0.0),
        ("ne", "Rome", 1.0),
        ("like", "It is Paris.", 1.0),
        ("like", "It is paris.", 0.0),
        ("ilike", "It is PARIS.", 1.0),
        ("ilike", "Rome", 0.0),
    ],
)
def test_a_string_check_compares_as_openai_s_does(
    admin: Any, operation: str, sample: str, reward: float
) -> None:
    body = run(admin, CHECK | {"operation": operation}, sample, answer="Paris").json()
    assert (body["reward"], body["metadata"]["scores"]) == (reward, {"equal": reward})
    assert not any(body["metadata"]["errors"].values())


def test_a_template_reads_nested_values_and_a_response_that_is_json(admin: Any) -> None:
    grader = CHECK | {"input": "{{sample.output_json.a.b}}", "reference": "{{item.x.y}}"}
    assert run(admin, grader, '{"a": {"b": 3}}', x={"y": 3}).json()["reward"] == 1.0


def test_an_installed_verifier_gives_its_verdict_on_a_response(
    admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def verify(items: Any) -> Any:
        asked.extend(items)
        return [{"correct": True, "extracted": "1/2", "reason": "equal", "failed": False}]

    monkeypatch.setattr(references, "verify", verify)
    body = run(admin, MATH, "it is 0.5", answer="1/2").json()
    assert (body["reward"], body["tempo"]["extracted"]) == (1.0, "1/2")
    assert asked == [
        {"verifier": "math", "response": "it is 0.5", "reference": ["1/2"], "metadata": {}}
    ]


def test_a_verifier_that_hangs_gives_no_reward_and_an_error(
    admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "verify", lambda _: [None])
    body = run(admin, MATH, "0.5", answer="1/2").json()
    assert (body["reward"], body["metadata"]["errors"]["other_error"]) == (0.0, True)
    assert "hangs or fails" in body["tempo"]["reason"]


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"type": "python", "name": "p", "source": "x"}, "'string_check', 'verifier'"),
        ({"type": "text_similarity", "name": "t"}, "'string_check', 'verifier'"),
        ({"type": "verifier", "verifier": "none"}, "there is no 'none'; installed are"),
        (CHECK | {"operation": "almost"}, "grader.string_check.operation"),
        (CHECK | {"pass_threshold": 0.5}, "grader.string_check.pass_threshold"),
        ({"name": "x"}, "grader"),
    ],
)
def test_a_grader_that_is_not_used_here_is_refused_and_the_usable_ones_are_named(
    admin: Any, grader: Any, message: str
) -> None:
    for route in ("run", "validate"):
        body = {"grader": grader} | ({"model_sample": "x"} if route == "run" else {})
        reply = admin("POST", f"{GRADERS}/{route}", json=body)
        assert reply.status_code == 400
        assert message in reply.json()["error"]["message"]


def test_a_grader_that_can_be_used_is_returned_by_the_check(admin: Any) -> None:
    reply = admin("POST", f"{GRADERS}/validate", json={"grader": CHECK})
    assert (reply.status_code, reply.json()["grader"]) == (200, CHECK)
    assert admin("POST", f"{GRADERS}/validate", json={"grader": MATH}).status_code == 200


@pytest.mark.parametrize("sample", ["not JSON", "[" * 100_000, "1" * 10_000])
def test_a_response_that_is_no_json_is_a_text_all_the_same(admin: Any, sample: str) -> None:
    assert run(admin, CHECK, sample, answer=sample).json()["reward"] == 1.0


def test_a_variable_without_a_value_is_named(admin: Any) -> None:
    reply = run(admin, CHECK, "Paris")
    assert (reply.status_code, "{{ item.answer }}" in reply.text) == (400, True)
