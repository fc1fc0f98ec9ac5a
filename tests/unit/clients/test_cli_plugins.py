"""`tempo --help`, the commands of entry points, and the ways to start `tempo`."""

import http.server
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
import typer
from fake_api import STATUS, run
from typer.testing import CliRunner

from tempo_client.cli.commands import adapters, app, jobs, keys
from tempo_client.cli.labels import labels
from tempo_client.cli.plugins import HELP, add_plugins

ROOT = Path(__file__).parents[3]
README = ROOT / "clients" / "README.md"
MAX_README_LINES = 100  # the help takes half of them
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = {
    *("status", "recalibrate", "round", "watch"),
    *("questions", "learned", "erase", "admit", "audit"),
    *("pause", "resume", "version"),
}
GROUPS = {
    "adapters": {"list", "show", "promote", "rollback"},
    "jobs": {"list", "show", "cancel", "events"},
    "keys": {"list", "create", "rotate", "revoke"},
    "labels": {"list", "files", "remove", "replace", "export", "check"},
}
OTHERS = """
def main(arguments):
    print(arguments)
    return 7
def bare():
    print("ran")
"""


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# Help --------------------------------------------------------------------------------------------


def test_every_command_of_the_sdk_has_json() -> None:
    groups = {"": app, "adapters ": adapters, "jobs ": jobs, "keys ": keys, "labels ": labels}
    names = {
        f"{prefix}{command.name or getattr(command.callback, '__name__', '')}"
        for prefix, group in groups.items()
        for command in group.registered_commands
        if command.add_help_option
    }
    assert names == COMMANDS | {f"{group} {name}" for group in GROUPS for name in GROUPS[group]}
    for name in names:
        assert "--json" in run(*name.split(), "--help").stdout


def test_help_is_quick_because_it_imports_no_command_of_an_entry_point() -> None:
    heavy = [
        *("torch", "vllm", "sqlalchemy", "redis"),
        *("tempo_server", "tempo_trainer", "tempo_lab", "tempo_storage"),
    ]
    script = (
        "import sys; from tempo_client.cli.commands import app\n"
        "try: app(['--help'])\n"
        f"except SystemExit: print('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    assert "LOADED []" in python("-c", script).stdout


def test_help_has_a_whole_sentence_for_each_command() -> None:
    lines = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in lines} == {*HELP, *COMMANDS, *GROUPS}
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("command", ["", "adapters", "adapters list", "round"])
def test_h_is_short_for_help(command: str) -> None:
    arguments = command.split()
    assert run(*arguments, "-h").stdout == run(*arguments, "--help").stdout != ""


def test_version_is_an_option_too() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"vllm-tempo {version('vllm-tempo')}\n")


def test_a_shell_can_complete_the_commands() -> None:
    environ = {"_TEMPO_COMPLETE": "complete_bash", "COMP_WORDS": "tempo ada", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], env=environ, prog_name="tempo")
    assert result.stdout.split() == ["adapters"]


def test_the_table_of_help_lines_names_exactly_our_entry_points() -> None:
    assert set(HELP) == set(PROJECT["entry-points"]["tempo.commands"])


def test_the_readme_shows_the_help() -> None:
    text = README.read_text()
    assert run("--help").stdout.rstrip() in text
    assert len(text.splitlines()) <= MAX_README_LINES


# Commands of entry points ------------------------------------------------------------------------


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """Return a command line with the commands of another package, and with our `worker`."""
    (tmp_path / "their_command.py").write_text(OTHERS)
    (tmp_path / "needy_command.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    values = {
        "theirs": "their_command:main",
        "needy": "needy_command:main",
        "worker": "their_command:bare",
        "study": "needy_command:main",
    }
    commands = typer.Typer(rich_markup_mode=None)
    add_plugins(commands, [EntryPoint(n, value, "tempo.commands") for n, value in values.items()])
    return commands


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("--help", 0, "Run their_command:main.\n"),
        ("theirs m --port 1 -O3 -- --help", 7, "['m', '--port', '1', '-O3', '--', '--help']"),
        ("theirs --port=1 m", 7, "['--port=1', 'm']"),
        ("worker", 0, "ran"),
        ("worker --help", 0, f"{HELP['worker']} It has no options"),
        ("worker --fast", 2, "It has no options"),
        ("needy", 1, "no_such_package is missing; install it, because needy_command:main needs it"),
        ("study", 1, "is missing; pip install 'vllm-tempo[server,trainer,study]'"),
    ],
)
def test_a_command_of_an_entry_point_gets_its_arguments(
    others: typer.Typer, arguments: str, code: int, text: str
) -> None:
    result = CliRunner().invoke(others, arguments.split())
    assert (result.exit_code, text in result.output) == (code, True), result.output


# Ways to start -----------------------------------------------------------------------------------


def test_without_the_extra_the_command_says_how_to_install_it() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; from tempo_client.cli.main import main; main()"
    )
    result = python("-c", script)
    assert result.stderr == "tempo: typer is missing; pip install 'vllm-tempo[cli]'\n"


def test_with_the_client_alone_the_settings_say_how_to_install_them() -> None:
    script = "import sys; sys.modules['pydantic_settings'] = None\n"
    script += "from tempo_client.cli.main import main; main()"
    result = python("-c", script, "settings")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "tempo: pydantic_settings is missing; pip install 'vllm-tempo[server,trainer]'\n"
    )


def test_the_console_script_and_the_module_both_run_the_command() -> None:
    assert PROJECT["scripts"] == {"tempo": "tempo_client.cli.main:main"}
    console_script = Path(sys.executable).with_name("tempo")
    outputs = [python(str(console_script), "version"), python("-m", "tempo_client.cli", "version")]
    assert [output.returncode for output in outputs] == [0, 0]
    assert outputs[0].stdout == outputs[1].stdout
    assert outputs[0].stdout.startswith("vllm-tempo\t")


@pytest.fixture
def address() -> Iterator[str]:
    """Serve STATUS over HTTP to the key tk_x; yield the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_admin = self.headers["Authorization"] == "Bearer tk_x"
            self.send_response(200 if is_admin else 401)
            self.end_headers()
            self.wfile.write(json.dumps(STATUS).encode())

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("variable", "code"),
    [("TEMPO_API_KEY", 0), ("TEMPO_API_KEY_FILE", 0), ("TEMPO_DATA_DIR", 0), (None, 4)],
)
def test_the_command_finds_server_and_key_in_the_environment(
    tmp_path: Path, address: str, variable: str | None, code: int
) -> None:
    key_file = tmp_path / "admin.key"
    key_file.write_text("tk_x\n")
    values = {
        "TEMPO_API_KEY": "tk_x",
        "TEMPO_API_KEY_FILE": str(key_file),
        "TEMPO_DATA_DIR": str(tmp_path),
    }
    environ: dict[str, str | None] = dict.fromkeys(values)  # None: not set
    environ |= {"TEMPO_BASE_URL": address, "TEMPO_DATA_DIR": str(tmp_path / "none")}
    if variable:
        environ[variable] = values[variable]
    result = CliRunner().invoke(app, ["status"], env=environ)
    assert result.exit_code == code, result.output
    assert ("serving\ttempo-v3" in result.stdout) == (code == 0)
