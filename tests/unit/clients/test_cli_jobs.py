"""The commands that start jobs and follow them, and the exit codes of all commands."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_api import EVENT, JOBS, job, page, run
from typer.testing import CliRunner

import tempo_client
from tempo_client.cli import output
from tempo_client.cli.commands import app

FILE = {
    "id": "file-1",
    "bytes": 9,
    "created_at": 1,
    "filename": "labeled.jsonl",
    "tempo": {
        "examples": 12,
        "verifiers": [
            {
                "verifier": "numeric",
                "count": 12,
                "examples": [{"line": 2, "question": "6*7?\nNow", "reference": ["42", "42.0"]}],
            }
        ],
        "held_out": 2,
        "warnings": [
            {"code": "duplicate", "line": 3, "count": 5, "message": "again"},
        ],
        "labeled": {"train": 14, "held_out": 10, "missing": 40, "smallest_gain": 0.253},
    },
}


@pytest.fixture
def labeled(tmp_path: Path) -> str:
    path = tmp_path / "labeled.jsonl"
    path.write_text("{}\n")
    return str(path)


def following(*states: dict[str, Any]) -> dict[str, Any]:
    """Return answers for an upload and a job that goes through these states, with one event."""

    def events(request: httpx.Request) -> dict[str, Any]:
        return page() if "after" in request.url.params else page(EVENT)

    return {
        "POST /tempo/v1/files": FILE,
        f"POST {JOBS}": job("queued"),
        f"GET {JOBS}/ftjob-1": list(states),
        f"GET {JOBS}/ftjob-1/events": events,
    }


def refusal(status: int, message: str = "no", **fields: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, **fields}}


# Jobs --------------------------------------------------------------------------------------------


def test_recalibrate_uploads_and_follows_to_the_end(labeled: str) -> None:
    states = job("running", progress={"iteration": 1, "of": 2}), job(result={"summary": "fit"})
    result = run("recalibrate", labeled, answers=following(*states))
    assert result.exit_code == 0, result.output
    assert result.stdout == "job\tftjob-1\nstatus\tsucceeded\nresult\tfit\n"
    assert "12 questions, 2 held out, 10 held out in all\n" in result.stderr
    assert "\n10 held-out questions can show a gain of 25 points\n" in result.stderr
    assert "\n40 labels are missing: nothing is promoted by itself\n" in result.stderr
    verifiers = "verifier numeric for 12 questions, such as\n  line 2: 6*7? Now → 42 or 42.0\n"
    assert verifiers in result.stderr
    assert "\nline 3 and 4 more: again\n" in result.stderr
    assert result.stderr.count("[E] done") == 1
    assert "round: running 1 of 2\n" in result.stderr  # of a server that names no phase
    assert "no worker runs yet" in result.stderr


def test_a_terminal_sees_the_progress(labeled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    last_step = {"iteration": 20, "of": 20, "phase": "e_step"}
    states = [job("running", mode="recalibrate", progress=last_step), job(mode="recalibrate")]
    assert "E-step 20 of 20" in run("recalibrate", labeled, answers=following(*states)).stderr


def test_json_is_alone_on_stdout(labeled: str) -> None:
    result = run("recalibrate", labeled, "--json", answers=following(job()))
    assert json.loads(result.stdout)["status"] == "succeeded"


def test_a_dry_run_starts_nothing(labeled: str) -> None:
    result = run("recalibrate", labeled, "--dry-run", answers={"POST /tempo/v1/files": FILE})
    assert (result.exit_code, "examples\t12" in result.stdout) == (0, True), result.output
    assert "verifier numeric\t12\n" in result.stdout


def test_no_wait_returns_with_the_queued_job(labeled: str) -> None:
    result = run("recalibrate", labeled, "--no-wait", answers=following())
    assert (result.exit_code, "queued" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (job("succeeded", result={"decision": "promoted", "summary": "better"}), 0, "better"),
        (job("succeeded", result={"decision": "unchanged"}), 0, "succeeded"),
        (job("succeeded", result={"decision": "rejected", "summary": "worse"}), 5, "worse"),
        (job("failed", error={"code": "x", "message": "no rollouts"}), 1, "no rollouts"),
        (job("cancelled"), 1, "cancelled"),
    ],
)
def test_a_round_ends_as_its_job_does(end: dict[str, Any], code: int, text: str) -> None:
    result = run("round", "--steps", "2", answers=following(end))
    assert (result.exit_code, text in result.stdout) == (code, True)


def test_watch_follows_the_running_job() -> None:
    listing = page(job("queued") | {"id": "ftjob-2"}, job("running"), job() | {"id": "ftjob-0"})
    result = run("watch", answers=following(job()) | {f"GET {JOBS}": listing})
    assert (result.exit_code, "ftjob-1" in result.stdout) == (0, True)


def test_watch_follows_a_job_that_is_named() -> None:
    result = run("watch", "ftjob-1", answers=following(job(), job()))
    assert (result.exit_code, "ftjob-1" in result.stdout) == (0, True)


def test_watch_says_that_no_job_is_under_way() -> None:
    result = run("watch", answers={f"GET {JOBS}": page(job())})
    assert (result.exit_code, result.stdout) == (0, "no job is under way\n")


def test_labels_are_stored_even_where_no_job_can_be_made(labeled: str) -> None:
    answers = following() | {f"POST {JOBS}": refusal(409, "ftjob-9 is queued")}
    result = run("recalibrate", labeled, answers=answers)
    assert result.exit_code == 1
    message = f"tempo: the labels of {labeled} are stored, but no job was made: 409"
    assert message in result.stderr
    assert "ftjob-9 is queued" in result.stderr


# Exit codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(401), 4),
        (refusal(403), 4),
        (refusal(404), 1),
        (refusal(409, code="conflict"), 1),
        (refusal(422, code="gate_failed"), 5),
        (refusal(500), 1),
        (httpx.ConnectError("refused"), 3),
        (httpx.ReadTimeout("slow"), 3),
    ],
)
def test_the_exit_code_says_what_kind_of_trouble_it_is(answer: Any, code: int) -> None:
    route = "POST /tempo/v1/adapters/tempo-v3/promote"
    result = run("adapters", "promote", "tempo-v3", answers={route: answer})
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("tempo: ")


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        (True, 4, "no API key\n"),
        (
            False,
            3,
            "http://127.0.0.1:8000 does not answer; start a server with `tempo serve MODEL`",
        ),
    ],
)
def test_without_a_key_there_is_no_access_and_without_a_server_no_server_is_reported(
    answers: bool, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect() -> tempo_client.Tempo:
        raise tempo_client.ConfigurationError("no API key")

    monkeypatch.delenv("TEMPO_BASE_URL", raising=False)
    monkeypatch.setattr(output, "_answers", lambda url: answers)
    result = CliRunner().invoke(app, ["status"], obj=connect)
    assert result.exit_code == code
    assert result.stderr.startswith(f"tempo: {message}")


def test_each_reason_is_printed_once_with_all_bad_lines(labeled: str) -> None:
    message = "bad lines: 325\nlines 1, 3, 5 and 297 more: the server's own, shorter list"
    errors = [{"line": n, "message": "not JSON; write one"} for n in range(1, 301)]
    errors += [
        {"line": n, "param": "answer", "value": f'"{n}"', "message": "no number; correct it"}
        for n in range(302, 350, 2)
    ]
    errors.append({"line": 7, "param": "id", "value": "", "message": "too long; shorten it"})
    answers = {"POST /tempo/v1/files": refusal(400, message, line_errors=errors)}
    result = run("recalibrate", labeled, answers=answers)
    assert result.exit_code == 1
    even = ", ".join(map(str, range(302, 350, 2)))
    assert result.stderr.splitlines() == [
        "tempo: 400 on POST /tempo/v1/files: bad lines: 325",
        "lines 1-300: not JSON; write one",
        f'lines {even}: answer: "302": no number; correct it',
        "line 7: id: too long; shorten it",
    ]


@pytest.mark.parametrize(
    "arguments", [["recalibrate", "/not/there"], ["round", "--steps", "0"], ["bogus"], ["jobs"]]
)
def test_wrong_usage_is_two(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
