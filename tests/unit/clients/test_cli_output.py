"""The output of the commands: tables on a terminal, tabs elsewhere, JSON with `--json`."""

import json
from typing import Any

import httpx
import pytest
from fake_api import ADAPTER, EVENT, JOBS, STATUS, job, page, run

CHANGE = {"id": "audit-1", "created_at": 1, "actor": "a", "address": "b", "action": "key.created"}
CHANGE |= {"subject": "cd", "before": {}, "after": {"name": "ci"}}
KEY = {"id": "0a1b", "name": "ci", "scopes": ["train"], "created_at": 1}
SHOW = "GET /tempo/v1/adapters/tempo-v3"


def test_json_has_all_that_the_server_sent_and_unknown_fields_too() -> None:
    answer = json.loads(run("status", "--json").stdout)
    assert answer["serving_adapter"] == "tempo-v3"
    assert answer["questions"]["new_counter"] == 1
    assert answer["last_error"]["message"] == "[E] done"


def test_without_a_terminal_tabs_separate_the_cells() -> None:
    lines = run("status").stdout.splitlines()
    assert "training\tm_step, iteration 4" in lines
    assert "questions\t7 captured, 5 distinct" in lines
    assert "warning\t--max-loras is 1" in lines
    assert lines[-1].endswith("[E] done")


def test_the_status_says_what_the_held_out_questions_can_show_and_how_many_are_missing() -> None:
    lines = run("status").stdout.splitlines()
    assert "labeled\t12 to train on, 12 held out" in lines
    assert "gate\t12 held-out questions can show a gain of 23 points" in lines
    assert "gate\t40 labels are missing: nothing is promoted by itself" in lines
    assert "users sample\tat temperature 0.6, top_p 0.95, top_k 20 (median of 5 questions)" in lines
    enough = {"train": 96, "held_out": 32, "missing": 0, "smallest_gain": 0.141}
    output = run("status", answers={"GET /tempo/v1/status": STATUS | {"labeled": enough}}).stdout
    assert "32 held-out questions can show a gain of 14 points" in output
    assert "missing" not in output
    one = {"train": 31, "held_out": 31, "missing": 1, "smallest_gain": 0.144}
    output = run("status", answers={"GET /tempo/v1/status": STATUS | {"labeled": one}}).stdout
    assert "1 label is missing: nothing is promoted by itself" in output


@pytest.mark.parametrize(
    ("questions", "max_tokens", "row"),
    [
        (0, None, "no question yet: the model's default, temperature 1, top_p 1, top_k all"),
        (1, None, "at temperature 1, top_p 1, top_k all (median of 1 question)"),
        (2500, 9, "at temperature 1, top_p 1, top_k all, max_tokens 9 (median of 1000 questions)"),
    ],
)
def test_the_status_says_by_how_many_questions_it_knows_how_users_sample(
    questions: int, max_tokens: int | None, row: str
) -> None:
    users = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": max_tokens}
    counts = {"captured": questions, "distinct": questions}
    status = STATUS | {"questions": counts, "users_decoding": users}
    lines = run("status", answers={"GET /tempo/v1/status": status}).stdout.splitlines()
    assert f"users sample\t{row}" in lines


@pytest.mark.parametrize("option", [[], ["--new-tests"]])
def test_resume_says_if_it_reset_the_number_of_the_gates_tests(option: list[str]) -> None:
    def resume(request: httpx.Request) -> dict[str, Any]:
        return {"paused": False} | json.loads(request.content)

    result = run("resume", *option, answers={"POST /tempo/v1/training/resume": resume})
    assert result.stdout == "paused\tFalse\n"
    message = "the number of the gate's tests starts again at 0\n"
    assert result.stderr == (message if option else "")


def test_the_status_of_an_older_server_claims_no_gain() -> None:
    older = STATUS | {"labeled": {"train": 3, "held_out": 2}}
    output = run("status", answers={"GET /tempo/v1/status": older}).stdout
    assert "gate\t2 held-out questions\n" in output
    older.pop("users_decoding")
    output = run("status", answers={"GET /tempo/v1/status": older}).stdout
    assert "sample" not in output


def test_the_status_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run("status").stdout.splitlines()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("status").stdout.splitlines()
    assert len(lines) == len(rows)  # no cell is wrapped
    assert all(len(line) <= 80 for line in lines)


def test_the_status_says_once_that_training_is_paused() -> None:
    paused = STATUS | {"paused": True, "phase": "paused", "iteration": None}
    lines = run("status", answers={"GET /tempo/v1/status": paused}).stdout.splitlines()
    assert "training\tpaused" in lines


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = run("adapters", "list", answers={"GET /tempo/v1/adapters": page(ADAPTER)}).stdout
    header, row = output.splitlines()
    assert "adapter" in header
    assert "gate" in header
    assert "\t" not in row
    assert "tempo-v3" in row


@pytest.mark.parametrize(
    ("arguments", "route", "answer", "text"),
    [
        ("questions", "GET /tempo/v1/status", STATUS, "captured\t7"),
        ("status", "GET /tempo/v1/status", STATUS, "serving\ttempo-v3"),
        ("pause --reason tests", "POST /tempo/v1/training/pause", {"paused": True}, "paused"),
        ("resume", "POST /tempo/v1/training/resume", {"paused": False}, "paused\tFalse"),
        ("learned 1+1", "POST /tempo/v1/questions/learned", {"adapters": ["tempo-v3"]}, "tempo-v3"),
        ("adapters list", "GET /tempo/v1/adapters", page(ADAPTER), "better by 0.04"),
        ("adapters show tempo-v3", SHOW, ADAPTER, "tempo-v3"),
        ("adapters promote tempo-v3", "POST /tempo/v1/adapters/tempo-v3/promote", ADAPTER, "v3"),
        ("adapters rollback", "POST /tempo/v1/adapters/rollback", ADAPTER, "serving"),
        ("jobs list", f"GET {JOBS}", page(job()), "ftjob-1\tround\tsucceeded"),
        ("jobs show ftjob-1", f"GET {JOBS}/ftjob-1", job("failed"), "failed"),
        ("jobs cancel ftjob-1", f"POST {JOBS}/ftjob-1/cancel", job("cancelled"), "cancelled"),
        ("jobs events ftjob-1", f"GET {JOBS}/ftjob-1/events", page(EVENT), "info\t[E] done"),
        ("keys list", "GET /tempo/v1/keys", page(KEY), "0a1b\tci\ttrain\t"),
        ("keys rotate 0a1b", "POST /tempo/v1/keys/0a1b/rotate", KEY | {"key": "tk_s"}, "tk_s\n"),
        ("audit", "GET /tempo/v1/audit", page(CHANGE), 'key.created\tcd\t{} → {"name": "ci"}'),
        ("keys create ci", "POST /tempo/v1/keys", KEY | {"key": "tk_s"}, "tk_s\n"),
        ("keys revoke 0a1b", "DELETE /tempo/v1/keys/0a1b", KEY, "revoked\t0a1b"),
    ],
)
def test_each_command_shows_the_answer_as_text_and_as_json(
    arguments: str, route: str, answer: Any, text: str
) -> None:
    for option in ([], ["--json"]):
        result = run(*arguments.split(), *option, answers={route: answer})
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) if option else text in result.stdout


def test_the_list_of_versions_has_the_newest_ones_and_says_how_many_are_older() -> None:
    versions = [ADAPTER | {"id": f"tempo-v{n}", "version": n} for n in range(30, 0, -1)]
    answers = {"GET /tempo/v1/adapters": page(*versions)}
    result = run("adapters", "list", answers=answers)
    ids = [line.partition("\t")[0] for line in result.stdout.splitlines()]
    assert ids == [f"tempo-v{n}" for n in range(30, 10, -1)]
    assert result.stderr == "10 older versions are not listed; --limit 0 lists all\n"
    result = run("adapters", "list", "--limit", "0", answers=answers)
    assert (len(result.stdout.splitlines()), result.stderr) == (30, "")


@pytest.mark.parametrize(
    ("arguments", "route"),
    [
        (("promote", "tempo-v3"), "POST /tempo/v1/adapters/tempo-v3/promote"),
        (("rollback",), "POST /tempo/v1/adapters/rollback"),
    ],
)
def test_a_promotion_prints_a_summary_whatever_the_version_learned_from(
    arguments: tuple[str, ...], route: str
) -> None:
    answer = ADAPTER | {"question_ids": [f"q_{n}" for n in range(160)], "lineage": {"code": "x"}}
    lines = run("adapters", *arguments, answers={route: answer}).stdout.splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["id", "status", "parent", "gate"]


def test_a_process_that_does_not_serve_the_version_yet_is_named() -> None:
    late = ADAPTER | {"unacknowledged": ["host:1"]}
    result = run("adapters", "rollback", answers={"POST /tempo/v1/adapters/rollback": late})
    assert "host:1 does not answer with it yet" in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 90 * 86_400), ("24h", 86_400), ("5m", 300), ("60s", 60), ("2w", 14 * 86_400)],
)
def test_the_life_and_the_grace_of_a_key_are_durations(text: str, seconds: int) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> dict[str, Any]:
        bodies.append(json.loads(request.content))
        return KEY | {"key": "tk_s"}

    routes = {"POST /tempo/v1/keys": answer, "POST /tempo/v1/keys/0a1b/rotate": answer}
    run("keys", "create", "ci", "--expires", text, answers=routes)
    run("keys", "rotate", "0a1b", "--grace", text, "--expires", text, answers=routes)
    run("keys", "rotate", "0a1b", answers=routes)
    assert [body["expires_in_seconds"] for body in bodies] == [seconds, seconds, None]
    assert [body.get("grace_seconds") for body in bodies] == [None, seconds, 86_400]


@pytest.mark.parametrize("text", ["90", "d", "-1d", "1.5h", "٣d", "9999999999d", "90d x", ""])
def test_another_text_is_no_duration(text: str) -> None:
    result = run("keys", "create", "ci", f"--expires={text}")
    assert (result.exit_code, "is no duration" in result.stderr) == (2, True)


@pytest.mark.parametrize("scopes", [[], ["train"], ["train", "promote"]])
def test_a_new_key_goes_to_stdout_and_its_rights_to_stderr(scopes: list[str]) -> None:
    def create(request: httpx.Request) -> dict[str, Any]:
        return KEY | json.loads(request.content) | {"key": "tk_s"}

    options = [part for scope in scopes for part in ("--scope", scope)]
    result = run("keys", "create", "ci", *options, answers={"POST /tempo/v1/keys": create})
    assert result.stdout == "tk_s\n"
    rights = " and ".join(scopes or ["read"])
    assert result.stderr == f"0a1b (ci) may {rights}; the key will not be shown again\n"


def test_a_version_is_shown_with_its_origin() -> None:
    lineage = {"checkpoint": "j-4", "code": {"torch": "2.13"}}
    adapter = ADAPTER | {"lineage": lineage, "question_ids": ["q_1", "q_2"]}
    output = run("adapters", "show", "tempo-v3", answers={SHOW: adapter}).stdout
    assert "checkpoint\tj-4\n" in output
    assert "code torch\t2.13\nlearned from\t2 questions; --json has their ids\n" in output


def test_a_version_is_shown_with_the_difference_that_decided() -> None:
    report = {
        "reason": "every bound holds",
        "base_avg_at_k": 0.316,
        "candidate_avg_at_k": 0.377,
        "against_base": {"mean": 0.061, "low": 0.044, "high": 0.08},
        "questions": 74,
        "k": 8,
        "probe": {"verdict": "unproven", "reason": "too small to tell"},
    }
    answers = {SHOW: ADAPTER | {"report": report}}
    output = run("adapters", "show", "tempo-v3", answers=answers).stdout
    assert "avg@8 0.377, base 0.316 (+0.061, at least +0.044) on 74 held-out questions" in output
    assert "probe\tunproven: too small to tell" in output


@pytest.mark.parametrize(("tokens", "times"), [(51_200, " (0.5 times the round's own)"), (0, "")])
def test_a_version_is_shown_with_its_test_its_accuracies_and_their_cost(
    tokens: int, times: str
) -> None:
    figures = dict.fromkeys(("users", "greedy", "plain", "majority", "pass_at_8"), 0.5)
    report = {
        "reason": "proven: +9.0 points",
        "accuracy": dict.fromkeys(("base", "serving", "candidate"), figures | {"mean_tokens": 7.6}),
        "decoding": {"temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_tokens": 512},
        "tests": 3,
        "max_tests": 50,
        "responses": 80,
        "questions": 64,
        "cost": {"responses": 1280, "tokens": 25_600, "round_tokens": tokens, "seconds": 8.2},
    }
    answers = {SHOW: ADAPTER | {"report": report}}
    lines = run("adapters", "show", "tempo-v3", answers=answers).stdout.splitlines()
    assert "gate\tproven: +9.0 points" in lines
    sampling = "at temperature 0.6, top_p 0.95, top_k all, max_tokens 512"
    test = f"number 3 of 50: 80 responses to each of 64 held-out questions, {sampling}"
    assert f"test\t{test}" in lines
    assert "accuracy, greedy\tbase 0.500, serving 0.500, candidate 0.500" in lines
    assert f"cost\t1,280 responses, 25,600 tokens{times}, 8 s" in lines


def test_a_test_that_does_not_count_and_one_greedy_answer_are_named_as_such() -> None:
    figures = dict.fromkeys(("users", "greedy", "plain", "majority", "pass_at_8"), 0.5)
    report = {
        "reason": "9 held-out questions are asked, too few",
        "accuracy": dict.fromkeys(("base", "serving", "candidate"), figures | {"mean_tokens": 7.6}),
        "decoding": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": None},
        "tests": None,
        "max_tests": 50,
        "responses": 1,
        "questions": 9,
        "cost": {"responses": 18, "tokens": 180, "round_tokens": 0, "seconds": 1.0},
    }
    answers = {SHOW: ADAPTER | {"report": report}}
    lines = run("adapters", "show", "tempo-v3", answers=answers).stdout.splitlines()
    [test] = [line for line in lines if line.startswith("test\t")]
    text = "not counted: one answer, since users sample greedily, to each of 9"
    assert test.startswith(f"test\t{text} held-out questions, at temperature 0")


def test_the_version_needs_no_server() -> None:
    assert json.loads(run("version", "--json").stdout)["vllm-tempo"]


def test_each_count_of_questions_has_its_meaning() -> None:
    rows = [line.split("\t") for line in run("questions").stdout.splitlines()]
    names = ["captured", "distinct", "streamed", "spooled", "skipped", "opted out"]
    names += ["dropped", "over limit", "unstorable", "stalled"]
    assert [name for name, _, _ in rows] == names
    assert rows[0][1:] == ["7", "kept in the ledger, counted each time that a user asked"]
    assert all(meaning for _, _, meaning in rows)
    counts = json.loads(run("questions", "--json").stdout)
    assert (counts["captured"], counts["streamed"], counts["new_counter"]) == (7, None, 1)
