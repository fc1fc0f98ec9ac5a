"""The command line on a transport that answers what the test says: output and exit codes."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

import tempo_client
from tempo_client import Tempo
from tempo_client.cli.commands import adapters, app, jobs, keys
from tempo_client.cli.plugins import add_plugins

README = Path(__file__).parents[3] / "clients" / "README.md"

Answer = tuple[int, Any]
FILE = {"id": "file-1", "bytes": 9, "created_at": 1, "filename": "labeled.jsonl"}
FILE |= {
    "tempo": {
        "examples": 12,
        "held_out": 2,
        "warnings": [{"line": 3, "count": 5, "message": "again"}],
    }
}
ADAPTER = {"id": "tempo-v3", "version": 3, "status": "serving", "created_at": 1}
ADAPTER |= {"report": {"reason": "better by 0.04"}}
KEY = {"id": "0a1b", "name": "ci", "scopes": ["train"], "created_at": 1}
EVENT = {"id": "ftevent-1", "created_at": 1, "level": "info", "type": "t", "message": "[E] done"}
STATUS = {
    "model": "tiny",
    "serving_adapter": "tempo-v3",
    "previous_adapter": "tempo-v0",
    "phase": "m_step",
    "iteration": 4,
    "questions": {"captured": 7, "distinct": 5, "streamed": None, "new_counter": 1},
    "warnings": ["--max-loras is 1"],
    "last_error": EVENT,
}
JOBS = "/tempo/v1/fine_tuning/jobs"


def job(status: str = "succeeded", mode: str = "round", **details: Any) -> dict[str, Any]:
    body = {"id": "ftjob-1", "status": status, "created_at": 1, "error": details.pop("error", None)}
    return body | {"tempo": {"mode": mode} | details}


def page(*items: Any) -> dict[str, Any]:
    return {"data": items, "has_more": False}


def run(*arguments: str, **answers: Any) -> Result:
    """Run a command; answers are bodies, (status, body), functions or lists, by method and path."""
    asked: dict[str, Any] = {"GET /tempo/v1/status": STATUS, **answers.pop("on", {})}

    def handle(request: httpx.Request) -> httpx.Response:
        answer = asked[f"{request.method} {request.url.path}"]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx.Response(status, json=body)

    def connect() -> Tempo:
        transport = httpx.MockTransport(handle)
        return Tempo("http://tempo", api_key="tk_x", transport=transport, max_retries=0)

    return CliRunner().invoke(app, arguments, obj=answers.get("connect", connect))


@pytest.fixture
def labeled(tmp_path: Path) -> str:
    path = tmp_path / "labeled.jsonl"
    path.write_text("{}\n")
    return str(path)


# What is printed ---------------------------------------------------------------------------------


def test_json_is_what_the_server_said_also_where_we_do_not_know_it() -> None:
    shown = json.loads(run("status", "--json").stdout)
    assert shown["serving_adapter"] == "tempo-v3"
    assert shown["questions"]["new_counter"] == 1
    assert shown["last_error"]["message"] == "[E] done"


def test_without_a_terminal_rows_are_plain() -> None:
    lines = run("status").stdout.splitlines()
    assert "training\tm_step, iteration 4" in lines
    assert "questions\t7 captured, 5 distinct" in lines
    assert "warning\t--max-loras is 1" in lines
    assert lines[-1].endswith("[E] done")


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("adapters", "list", on={"GET /tempo/v1/adapters": page(ADAPTER)}).stdout
    header, row = shown.splitlines()
    assert "adapter" in header
    assert "gate" in header
    assert "\t" not in row
    assert "tempo-v3" in row


@pytest.mark.parametrize(
    ("arguments", "route", "answer", "shown"),
    [
        ("questions", "GET /tempo/v1/status", STATUS, "captured\t7"),
        ("status", "GET /tempo/v1/status", STATUS, "serving\ttempo-v3"),
        ("pause --reason tests", "POST /tempo/v1/training/pause", {"paused": True}, "paused"),
        ("resume", "POST /tempo/v1/training/resume", {"paused": False}, "paused\tFalse"),
        ("learned 1+1", "POST /tempo/v1/questions/learned", {"adapters": ["tempo-v3"]}, "tempo-v3"),
        ("erase ab", "DELETE /tempo/v1/questions", {"adapters": ["tempo-v3"]}, "learned\ttempo-v3"),
        ("adapters list", "GET /tempo/v1/adapters", page(ADAPTER), "better by 0.04"),
        ("adapters show tempo-v3", "GET /tempo/v1/adapters/tempo-v3", ADAPTER, "tempo-v3"),
        ("adapters promote tempo-v3", "POST /tempo/v1/adapters/tempo-v3/promote", ADAPTER, "v3"),
        ("adapters rollback", "POST /tempo/v1/adapters/rollback", ADAPTER, "serving"),
        ("jobs list", f"GET {JOBS}", page(job()), "ftjob-1\tround\tsucceeded"),
        ("jobs show ftjob-1", f"GET {JOBS}/ftjob-1", job("failed"), "failed"),
        ("jobs cancel ftjob-1", f"POST {JOBS}/ftjob-1/cancel", job("cancelled"), "cancelled"),
        ("jobs events ftjob-1", f"GET {JOBS}/ftjob-1/events", page(EVENT), "info\t[E] done"),
        ("keys list", "GET /tempo/v1/keys", page(KEY), "0a1b\tci\tread and train\t"),
        ("keys create ci", "POST /tempo/v1/keys", KEY | {"key": "tk_s"}, "tk_s\n"),
        ("keys revoke 0a1b", "DELETE /tempo/v1/keys/0a1b", KEY, "revoked\t0a1b"),
    ],
)
def test_each_command_shows_the_answer(arguments: str, route: str, answer: Any, shown: str) -> None:
    for extra in ([], ["--json"]):
        result = run(*arguments.split(), *extra, on={route: answer})
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) if extra else shown in result.stdout


def test_a_process_that_is_late_is_named() -> None:
    late = ADAPTER | {"unacknowledged": ["host:1"]}
    result = run("adapters", "rollback", on={"POST /tempo/v1/adapters/rollback": late})
    assert "host:1 does not answer with it yet" in result.stderr


@pytest.mark.parametrize("scopes", [[], ["train"], ["train", "promote"]])
def test_a_key_alone_goes_to_stdout_and_the_rest_is_told(scopes: list[str]) -> None:
    def make(request: httpx.Request) -> dict[str, Any]:
        return KEY | json.loads(request.content) | {"key": "tk_s"}

    chosen = [part for scope in scopes for part in ("--scope", scope)]
    result = run("keys", "create", "ci", *chosen, on={"POST /tempo/v1/keys": make})
    assert result.stdout == "tk_s\n"
    may = " and ".join(["read", *scopes])
    assert result.stderr == f"0a1b (ci) may {may}; the key will not be shown again\n"


def test_a_version_is_shown_with_what_it_came_of() -> None:
    came_of = {"checkpoint": "j-4", "code": {"torch": "2.13"}}
    told = ADAPTER | {"lineage": came_of, "question_ids": ["q_1", "q_2"]}
    shown = run("adapters", "show", "tempo-v3", on={"GET /tempo/v1/adapters/tempo-v3": told}).stdout
    assert "checkpoint\tj-4\n" in shown
    assert "code torch\t2.13\nlearned from\tq_1\nlearned from\tq_2\n" in shown


def test_the_version_needs_no_server() -> None:
    assert json.loads(run("version", "--json").stdout)["vllm-tempo"]


def test_each_counter_of_questions_says_what_it_counts() -> None:
    rows = [line.split("\t") for line in run("questions").stdout.splitlines()]
    names = ["captured", "distinct", "streamed", "spooled", "skipped", "opted out", "dropped"]
    assert [name for name, _, _ in rows] == names
    assert rows[0][1:] == ["7", "kept in the ledger, each time that it was asked"]
    assert all(meaning for _, _, meaning in rows)
    told = json.loads(run("questions", "--json").stdout)
    assert (told["captured"], told["streamed"], told["new_counter"]) == (7, None, 1)


# Jobs are followed -------------------------------------------------------------------------------


def following(*states: dict[str, Any]) -> dict[str, Any]:
    def told(request: httpx.Request) -> dict[str, Any]:
        return page() if "after" in request.url.params else page(EVENT)

    return {
        "POST /tempo/v1/files": FILE,
        f"POST {JOBS}": job("queued"),
        f"GET {JOBS}/ftjob-1": list(states),
        f"GET {JOBS}/ftjob-1/events": told,
    }


def test_recalibrate_uploads_and_follows_to_the_end(labeled: str) -> None:
    states = job("running", progress={"iteration": 1, "of": 2}), job(result={"summary": "fit"})
    result = run("recalibrate", labeled, on=following(*states))
    assert result.exit_code == 0, result.output
    assert result.stdout == "job\tftjob-1\nstatus\tsucceeded\nresult\tfit\n"
    assert "12 questions, 2 held out" in result.stderr
    assert "line 3 and 4 more: again" in result.stderr
    assert result.stderr.count("[E] done") == 1
    assert "no worker runs yet" in result.stderr


def test_a_terminal_sees_the_progress(labeled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = job(mode="recalibrate", progress={"iteration": 20, "of": 20, "phase": "e_step"})
    assert "e_step" in run("recalibrate", labeled, on=following(done)).stderr


def test_json_stays_alone_on_stdout(labeled: str) -> None:
    result = run("recalibrate", labeled, "--json", on=following(job()))
    assert json.loads(result.stdout)["status"] == "succeeded"


def test_a_dry_run_starts_nothing(labeled: str) -> None:
    result = run("recalibrate", labeled, "--dry-run", on={"POST /tempo/v1/files": FILE})
    assert (result.exit_code, "examples\t12" in result.stdout) == (0, True), result.output


def test_nobody_has_to_wait(labeled: str) -> None:
    result = run("recalibrate", labeled, "--no-wait", on=following())
    assert (result.exit_code, "queued" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (job("succeeded", result={"decision": "promoted", "summary": "better"}), 0, "better"),
        (job("succeeded", result={"decision": "unchanged"}), 0, "succeeded"),
        (job("succeeded", result={"decision": "rejected", "summary": "worse"}), 5, "worse"),
        (job("failed", error={"code": "x", "message": "no rollouts"}), 1, "no rollouts"),
        (job("cancelled"), 1, "cancelled"),
    ],
)
def test_a_round_ends_as_its_job_does(end: dict[str, Any], code: int, told: str) -> None:
    result = run("round", "--steps", "2", on=following(end))
    assert (result.exit_code, told in result.stdout) == (code, True)


def test_watch_takes_the_job_under_way() -> None:
    waiting = job("queued") | {"id": "ftjob-2"}
    known = page(waiting, job("running"), job() | {"id": "ftjob-0"})
    result = run("watch", on=following(job()) | {f"GET {JOBS}": known})
    assert (result.exit_code, "ftjob-1" in result.stdout) == (0, True)
    result = run("watch", on={f"GET {JOBS}": page(job())})
    assert (result.exit_code, result.stdout) == (0, "no job is under way\n")


# Exit codes --------------------------------------------------------------------------------------


def error(status: int, message: str = "no", **fields: Any) -> Answer:
    return status, {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401), 4),
        (error(403), 4),
        (error(404), 1),
        (error(409, code="conflict"), 1),
        (error(422, code="gate_failed"), 5),
        (error(500), 1),
        (httpx.ConnectError("refused"), 3),
        (httpx.ReadTimeout("slow"), 3),
    ],
)
def test_the_exit_code_says_what_kind_of_trouble_it_is(answer: Any, code: int) -> None:
    route = "POST /tempo/v1/adapters/tempo-v3/promote"
    result = run("adapters", "promote", "tempo-v3", on={route: answer})
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("tempo: ")


def test_without_a_key_there_is_no_access() -> None:
    def connect() -> Tempo:
        raise tempo_client.ConfigurationError("no API key")

    result = run("status", connect=connect)
    assert (result.exit_code, result.stderr) == (4, "tempo: no API key\n")


def test_bad_lines_are_told_once_as_the_server_sums_them_up(labeled: str) -> None:
    told = "bad lines: 300\nlines 1-300: not JSON; write one object a line"
    errors = [{"line": n, "message": "not JSON; write one object a line"} for n in range(1, 301)]
    bad = error(400, told, line_errors=errors)
    result = run("recalibrate", labeled, on={"POST /tempo/v1/files": bad})
    assert (result.exit_code, result.stderr) == (1, f"tempo: 400 on POST /tempo/v1/files: {told}\n")


@pytest.mark.parametrize(
    "arguments", [["recalibrate", "/not/there"], ["round", "--steps", "0"], ["bogus"], ["jobs"]]
)
def test_wrong_usage_is_two(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


# Help, and the commands of others ----------------------------------------------------------------


def test_every_command_of_ours_has_json() -> None:
    ours = [
        f"{prefix}{command.name or getattr(command.callback, '__name__', '')}"
        for prefix, group in (("", app), ("adapters ", adapters), ("jobs ", jobs), ("keys ", keys))
        for command in group.registered_commands
        if command.add_help_option
    ]
    assert len(ours) == 21
    for name in ours:
        assert "--json" in run(*name.split(), "--help").stdout


def test_help_is_quick_and_lists_what_it_does_not_load() -> None:
    heavy = [
        "torch",
        "vllm",
        "sqlalchemy",
        "redis",
        "tempo_server.commands.serve",
        "tempo_trainer.worker.process",
    ]
    script = (
        "import sys; from tempo_client.cli.commands import app\n"
        "try: app(['--help'])\n"
        f"except SystemExit: print('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert "LOADED []" in result.stdout
    for name in ("worker", "demo", "recalibrate"):
        assert f"\n  {name} " in result.stdout


def test_the_readme_shows_the_help() -> None:
    text = README.read_text()
    assert run("--help").stdout.rstrip() in text
    assert len(text.splitlines()) <= 90


def test_without_the_extra_the_command_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; from tempo_client.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.stderr == "tempo: typer is missing; pip install 'vllm-tempo[cli]'\n"


def test_with_the_client_alone_the_settings_say_what_to_install() -> None:
    script = "import sys; sys.modules['pydantic_settings'] = None\n"
    script += "from tempo_client.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", script, "settings"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "tempo: pydantic_settings is missing; pip install 'vllm-tempo[server,trainer]'\n"
    )


THEIRS = '''"""Their command: it does things."""
def main(arguments):
    print(arguments)
    return 7
def bare():
    print("ran")
'''


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    (tmp_path / "their_command.py").write_text(THEIRS)
    (tmp_path / "needy_command.py").write_text('"""Needy."""\nimport no_such_package')
    monkeypatch.syspath_prepend(tmp_path)
    made = typer.Typer(rich_markup_mode=None)
    values = {
        "theirs": "their_command:main",
        "bare": "their_command:bare",
        "needy": "needy_command:main",
    }
    add_plugins(made, [EntryPoint(name, value, "tempo.commands") for name, value in values.items()])
    return made


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--help", 0, "Their command\n"),
        ("theirs m --port 1 -O3 -- --help", 7, "['m', '--port', '1', '-O3', '--', '--help']"),
        ("theirs --port=1 m", 7, "['--port=1', 'm']"),
        ("bare", 0, "ran"),
        ("bare --help", 0, "Their command. It has no options"),
        ("bare --fast", 2, "It has no options"),
        ("needy", 1, "no_such_package is missing; pip install 'vllm-tempo[server,trainer]'"),
    ],
)
def test_commands_of_others_get_their_arguments(
    others: typer.Typer, arguments: str, code: int, said: str
) -> None:
    result = CliRunner().invoke(others, arguments.split())
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_a_version_is_shown_with_the_difference_that_decided() -> None:
    report = {
        **{"reason": "every bound holds", "base_avg_at_k": 0.316, "candidate_avg_at_k": 0.377},
        **{"against_base": {"mean": 0.061, "low": 0.044, "high": 0.08}, "questions": 74, "k": 8},
        "probe": {"verdict": "unproven", "reason": "too small to tell"},
    }
    answers = {"GET /tempo/v1/adapters/tempo-v3": ADAPTER | {"report": report}}
    shown = run("adapters", "show", "tempo-v3", on=answers).stdout
    assert "avg@8 0.377, base 0.316 (+0.061, at least +0.044) on 74 held-out questions" in shown
    assert "probe\tunproven: too small to tell" in shown
