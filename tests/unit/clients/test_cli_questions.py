"""`tempo erase` lists the tenants and asks before it erases; `tempo learned` says "none"."""

import json
from typing import Any

import httpx
import pytest
from fake_api import ADAPTER, client, page
from typer.testing import CliRunner, Result

from tempo_client.cli.commands import app

TENANTS = "GET /tempo/v1/questions/tenants"
ERASE = "DELETE /tempo/v1/questions"
FIRST = {"id": "ab" * 8, "questions": 12, "last_asked_at": 1, "quarantined": True}
SECOND = {"id": "ac" * 8, "questions": 3, "last_asked_at": 0}


def run(*arguments: str, answers: dict[str, Any], stdin: str = "") -> Result:
    def connect() -> Any:
        return client(answers, max_retries=0)

    return CliRunner().invoke(app, arguments, obj=connect, input=stdin)


def test_without_a_key_id_the_tenants_are_listed_with_their_numbers() -> None:
    output = run("erase", answers={TENANTS: page(FIRST, SECOND)}).stdout
    first, second = output.splitlines()
    assert first.startswith(f"{FIRST['id']}\t12\t")
    assert first.endswith("\tTrue")
    assert second == f"{SECOND['id']}\t3\t-\tFalse"


def test_without_any_question_there_is_no_tenant() -> None:
    result = run("erase", answers={TENANTS: page()})
    assert (result.stdout, result.stderr) == ("", "no question is in the ledger\n")


@pytest.mark.parametrize(("stdin", "code"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_nothing_is_erased_without_a_yes(stdin: str, code: int) -> None:
    requests: list[str] = []

    def erase(request: httpx.Request) -> dict[str, Any]:
        requests.append(request.url.params["tenant"])
        return {"erased": 12, "adapters": ["tempo-v3"]}

    answers = {TENANTS: page(FIRST, SECOND), ERASE: erase}
    result = run("erase", "abab", answers=answers, stdin=stdin)
    assert result.exit_code == code
    assert f"erase 12 questions of {FIRST['id']}? [y/N]" in result.stderr
    assert requests == ([] if code else [FIRST["id"]])
    if not code:
        assert result.stdout.endswith("erased\t12\nlearned\ttempo-v3\n")


def test_yes_erases_at_once() -> None:
    answers = {TENANTS: page(FIRST), ERASE: {"erased": 12, "adapters": []}}
    result = run("erase", FIRST["id"], "--yes", answers=answers)
    assert (result.exit_code, result.stdout) == (0, "erased\t12\n")


LEARNED = {
    "erased": 1,
    "adapters": ["tempo-v3"],
    "remains": ["the spool of host-1"],
    "rollback_to": "tempo-v2",
}
ROLLBACK = "POST /tempo/v1/adapters/rollback"


@pytest.mark.parametrize(("stdin", "rolled_back"), [("y\ny\n", ["tempo-v2"]), ("y\nn\n", [])])
def test_a_rollback_is_offered_while_a_version_that_learned_serves(
    stdin: str, rolled_back: list[str]
) -> None:
    targets: list[str] = []

    def roll_back(request: httpx.Request) -> dict[str, Any]:
        targets.append(json.loads(request.content)["to"])
        return ADAPTER

    answers = {TENANTS: page(FIRST), ERASE: LEARNED, ROLLBACK: roll_back}
    result = run("erase", FIRST["id"], answers=answers, stdin=stdin)
    assert result.exit_code == 0
    assert "erased\t1\nlearned\ttempo-v3\nremains\tthe spool of host-1\n" in result.stdout
    assert "roll back to tempo-v2? [y/N]" in result.stderr
    assert targets == rolled_back


def test_yes_erases_and_rolls_nothing_back() -> None:
    answers = {TENANTS: page(FIRST), ERASE: LEARNED}
    result = run("erase", FIRST["id"], "--yes", answers=answers)
    assert result.exit_code == 0
    assert "tempo adapters rollback tempo-v2" in result.stderr


@pytest.mark.parametrize(
    ("key_id", "reason"),
    [
        ("a", "the ids of 2 tenants begin with a; `tempo erase` lists them"),
        ("f", "no tenant's id begins with f; `tempo erase` lists them"),
    ],
)
def test_a_beginning_must_name_one_tenant(key_id: str, reason: str) -> None:
    result = run("erase", key_id, "--yes", answers={TENANTS: page(FIRST, SECOND)})
    assert result.exit_code == 1
    assert reason in result.stderr


def test_a_tenant_whose_questions_are_all_pruned_can_be_erased_by_its_whole_id() -> None:
    answers = {TENANTS: page(FIRST), ERASE: {"erased": 0, "adapters": ["tempo-v1"]}}
    result = run("erase", "f" * 16, "--yes", answers=answers)
    assert result.stdout == "erased\t0\nlearned\ttempo-v1\n"


def test_a_question_that_taught_nothing_was_learned_by_none() -> None:
    result = run("learned", "1+1", answers={"POST /tempo/v1/questions/learned": {"adapters": []}})
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "none: no version learned from this question\n"


def test_a_tenant_is_admitted_by_the_beginning_of_its_id() -> None:
    admit = f"POST /tempo/v1/questions/tenants/{FIRST['id']}/admit"
    answers = {TENANTS: page(FIRST, SECOND), admit: FIRST | {"quarantined": False}}
    result = run("admit", "abab", answers=answers)
    assert (result.exit_code, result.stdout) == (0, f"admitted\t{FIRST['id']}\n")
