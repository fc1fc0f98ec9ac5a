"""`tempo labels`: each command's request and its output."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_api import STATUS, page, run
from typer.testing import Result

LABELS = "/tempo/v1/labels"
CHAT = "POST /v1/chat/completions"
DELETED = {"id": "0a", "deleted": True, "examples": 1, "adapters": ["tempo-v2"]}


def label(name: str, split: str = "train", **fields: Any) -> dict[str, Any]:
    return {
        "id": name * 64,
        "split": split,
        "messages": [{"role": "user", "content": f"What is\n{name}?"}],
        "reference_answer": [name, name.upper()],
        "verifier": "words",
        "metadata": {},
        "chat_template_kwargs": {},
    } | fields


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_labels_are_listed_with_split_verifier_answer_and_question() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> Any:
        requests.append(request)
        return page(label("a"), label("b", "held_out"))

    listed = run("labels", "list", "--file", "file-1", answers={f"GET {LABELS}": answer})
    assert rows(listed) == [
        ["a" * 12, "train", "words", "a or A", "What is a?"],
        ["b" * 12, "held_out", "words", "b or B", "What is b?"],
    ]
    assert dict(requests[0].url.params) == {"limit": "100", "file": "file-1"}


@pytest.mark.parametrize("command", ["list", "export"])
@pytest.mark.parametrize(
    ("options", "held_out"),
    [
        *(([], None), (["--split", "train"], None)),
        *((["--held-out"], "true"), (["--split", "held_out"], "true")),
    ],
)
def test_held_out_labels_are_asked_for_by_name(
    command: str, options: list[str], held_out: str | None
) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> Any:
        requests.append(request)
        return page(label("a"))

    result = run("labels", command, *options, answers={f"GET {LABELS}": answer})
    assert requests[0].url.params.get("held_out") == held_out
    assert ("--held-out adds them" in result.stderr) is (options == [])


def test_an_export_is_a_labeled_file(tmp_path: Path) -> None:
    answers = {f"GET {LABELS}": page(label("ä"), label("b"))}
    result = run("labels", "export", answers=answers)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["reference_answer"] for line in lines] == [["ä", "Ä"], ["b", "B"]]
    assert all("id" not in line and "split" not in line for line in lines)
    path = tmp_path / "labels.jsonl"
    assert f"{path}: 2 labels" in run("labels", "export", str(path), answers=answers).stderr
    assert path.read_text(encoding="utf-8") == result.stdout
    assert json.loads(run("labels", "export", "--json", answers=answers).stdout) == lines


@pytest.mark.parametrize(
    ("name", "route"), [("0a", f"DELETE {LABELS}/0a"), ("file-1", "DELETE /tempo/v1/files/file-1")]
)
def test_a_label_or_a_file_is_removed_with_the_versions_that_learned_from_it(
    name: str, route: str
) -> None:
    result = run("labels", "remove", name, answers={route: DELETED})
    assert rows(result) == [["removed", "0a"], ["labels removed", "1"], ["learned", "tempo-v2"]]


@pytest.mark.parametrize(("answers", "body"), [(["7"], "7"), (["7", "seven"], ["7", "seven"])])
def test_an_answer_is_replaced(answers: Sequence[str], body: object) -> None:
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> Any:
        bodies.append(json.loads(request.content))
        return label("c")

    routes = {f"PUT {LABELS}/cc": answer}
    result = run("labels", "replace", "cc", *answers, "--verifier", "words", answers=routes)
    assert ["split", "train"] in rows(result)
    assert bodies == [{"answer": body, "verifier": "words"}]


def test_uploaded_files_are_listed() -> None:
    file = {"id": "file-1", "bytes": 1, "created_at": 1, "filename": "x.csv", "examples": 9}
    listed = rows(run("labels", "files", answers={"GET /tempo/v1/files": page(file)}))
    assert listed[0][:3] == ["file-1", "x.csv", "9"]


def test_a_check_asks_the_served_model_and_counts_its_right_responses() -> None:
    every = [label(name) for name in "abcd"]
    verdicts = {"a": [True, True], "b": [False, False], "c": [True, None], "d": [False, None]}
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> Any:
        requests.append(request)
        return {"choices": [{"message": {"content": text}} for text in ("x", None)]}

    def verify(request: httpx.Request) -> Any:
        responses = json.loads(request.content)["responses"]
        assert set(map(tuple, responses.values())) == {("x", "")}
        return {"verdicts": {id: verdicts[id[0]] for id in responses}}

    users = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24}
    routes = {f"GET {LABELS}": page(*every), CHAT: respond, f"POST {LABELS}/verdicts": verify}
    routes["GET /tempo/v1/status"] = STATUS | {"users_decoding": users}
    result = run("labels", "check", "-n", "2", "--api-key", "sk", answers=routes)
    assert rows(result) == [
        ["labels", "4"],
        ["responses", "8"],
        ["right", "0.375"],
        ["all right", "1"],
        ["all wrong", "2"],
        ["verifier failed", "2"],
    ]
    assert f"no right response: {'b' * 12}  words  b or B  What is b?" in result.stderr
    assert f"no right response: {'d' * 12}" in result.stderr
    assert {request.headers["x-tempo-opt-out"] for request in requests} == {"1"}
    assert {request.headers["authorization"] for request in requests} == {"Bearer sk"}
    assert json.loads(requests[0].content) == {
        "model": "tempo",
        "messages": every[0]["messages"],
        "n": 2,
        "max_tokens": 24,
    }
    assert "4 of 4 labels are checked\n" in result.stderr


def test_a_check_without_labels_says_how_to_upload_some() -> None:
    result = run("labels", "check", answers={f"GET {LABELS}": page()})
    assert result.exit_code == 1
    assert "there are no labels; upload some with `tempo recalibrate FILE`" in result.stderr
