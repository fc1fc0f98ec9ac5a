"""A grader is tried on one response, by OpenAI's routes."""

import json
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


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions that verifiers were asked; each verdict is right."""
    asked: list[Any] = []

    def verify(items: Any) -> Any:
        asked.extend(items)
        return [{"correct": True, "extracted": "1/2", "reason": "equal", "failed": False}]

    monkeypatch.setattr(references, "verify", verify)
    return asked


def test_a_grader_of_openai_gives_the_verdict_of_the_real_verifier(admin: Any) -> None:
    body = run(admin, CHECK | {"operation": "ne"}, "Paris", answer="Paris").json()
    assert (body["reward"], body["metadata"]["scores"]) == (0.0, {"equal": 0.0})
    assert not any(body["metadata"]["errors"].values())


def test_a_grader_runs_as_on_a_labeled_line_that_names_it(admin: Any, questions: list[Any]) -> None:
    assert run(admin, CHECK, "Paris", answer="Paris").json()["reward"] == 1.0
    (question,) = questions
    assert question["verifier"] == "string_check"
    assert (question["response"], question["reference"]) == ("Paris", ["Paris"])
    assert question["metadata"]["grader"]["operation"] == "eq"


def test_a_template_reads_nested_values_and_a_response_that_is_json(
    admin: Any, questions: list[Any]
) -> None:
    grader = CHECK | {"input": "{{sample.output_json.a.b}}", "reference": "{{item.x.y}}"}
    assert run(admin, grader, '{"a": {"b": 3}}', x={"y": 3}).status_code == 200
    assert (questions[0]["response"], questions[0]["reference"]) == ("3", ["3"])


def test_an_installed_verifier_gives_its_verdict_on_a_response(
    admin: Any, questions: list[Any]
) -> None:
    grader = MATH | {"metadata": {"tolerance": 0.1}}
    body = run(admin, grader, "it is 0.5", answer="1/2").json()
    assert (body["reward"], body["tempo"]["extracted"]) == (1.0, "1/2")
    (question,) = questions
    assert (question["verifier"], question["reference"]) == ("math", ["1/2"])
    assert (question["response"], question["metadata"]["tolerance"]) == ("it is 0.5", 0.1)


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
        ({"type": "python", "name": "p", "source": "x"}, "it runs code of the file"),
        ({"type": "text_similarity", "name": "t"}, "only its exact part"),
        ({"type": "score_model", "name": "s", "model": "m"}, "it asks another model"),
        ({"type": "new"}, "the grader 'new': it is unknown here"),
        ({"type": "verifier", "verifier": "none"}, "there is no 'none'; installed are"),
        (CHECK | {"operation": "almost"}, "grader.operation"),
        ({"name": "x"}, "grader"),
    ],
)
def test_a_grader_that_is_not_used_here_is_refused_with_the_reason(
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
def test_a_response_that_is_no_json_is_a_text_all_the_same(
    admin: Any, questions: list[Any], sample: str
) -> None:
    assert run(admin, CHECK, sample, answer=sample).status_code == 200
    assert questions[0]["response"] == sample


@pytest.mark.parametrize("field", ["model_sample", "item", "grader"])
def test_half_a_surrogate_pair_is_refused(admin: Any, field: str) -> None:
    body: Any = {"grader": CHECK, "model_sample": "Paris", "item": {"answer": "Paris"}}
    body[field] = "\ud800" if field == "model_sample" else body[field] | {"x": "\ud800"}
    headers = {"content-type": "application/json"}
    reply = admin("POST", f"{GRADERS}/run", content=json.dumps(body), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_value")


def test_a_variable_without_a_value_is_named(admin: Any) -> None:
    reply = run(admin, CHECK, "Paris")
    assert (reply.status_code, "{{ item.answer }}" in reply.text) == (400, True)


def test_a_short_template_makes_no_enormous_text(admin: Any) -> None:
    grader = CHECK | {"input": "{{item.big}}" * 1_000}
    reply = run(admin, grader, "Paris", answer="Paris", big="x" * 10_000)
    assert reply.status_code == 400
    assert "shorten `item`" in reply.json()["error"]["message"]
