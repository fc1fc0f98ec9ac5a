"""`tempo serve` refuses a wrong start in one line, before it starts anything."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

from tempo_server.commands import serve
from tempo_server.commands.checks import CheckError
from tempo_server.settings import ServerSettings
from tempo_storage.errors import SettingsError
from tempo_storage.settings import checked


@pytest.fixture(autouse=True)
def _own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_DATA_DIR", str(tmp_path / "data"))


def arguments(model: str = "org/model") -> list[str]:
    return [model, "--port", str(free_port())]


def test_a_right_start_passes_the_checks_and_makes_the_ledger(tmp_path: Path) -> None:
    settings = serve.check(arguments())
    assert settings.root == tmp_path / "data"
    serve.check_stores(settings)
    assert (tmp_path / "data" / "tempo.db").exists()


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["/not/there", "./not-there", "../not-there", "~/not-there"])
def test_a_model_s_path_that_does_not_exist_is_refused(model: str) -> None:
    with pytest.raises(CheckError, match=r"no model at .*not.there; give a directory"):
        serve.check(arguments(model))


def test_a_flag_before_the_model_is_refused() -> None:
    with pytest.raises(CheckError, match="the model is missing before --port"):
        serve.check(["--port", "8000"])


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_that_another_program_uses_is_refused(host: str) -> None:
    with socket.create_server((host, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CheckError, match=f"port {port} .*in use.*give another --port"):
            serve.check_port(host, port=port)


@pytest.mark.parametrize("port", ["http", "70000"])
def test_a_port_that_is_no_port_number_is_refused(port: str) -> None:
    with pytest.raises(CheckError, match=f"--port {port} is no port"):
        serve.check(["org/model", f"--port={port}"])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--ssl_certfile=x"], "--ssl-certfile: the worker needs plain HTTP"),
        (["--config", "x.yaml"], "--config: this command does not read the file"),
    ],
)
def test_flags_with_which_the_worker_could_not_reach_the_server_are_refused(
    flags: list[str], reason: str
) -> None:
    with pytest.raises(CheckError, match=reason):
        serve.check(["org/model", *flags])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TEMPO_CAPTUER", "off", "did you mean TEMPO_CAPTURE"),
        ("TEMPO_LORA_RANK", "0", "TEMPO_LORA_RANK is '0'; .*greater than or equal to 1"),
        ("TEMPO_GROUP_SIZE", "one", "TEMPO_GROUP_SIZE is 'one'"),
    ],
)
def test_a_setting_that_the_server_or_the_worker_refuses_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        checked(ServerSettings)


def test_the_checks_of_modules_and_disk_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(CheckError, match="cannot write to the data directory"):
        serve.check(arguments())
    monkeypatch.setitem(sys.modules, "rq", None)
    with pytest.raises(CheckError, match="rq is missing"):
        serve.check(arguments())


def test_a_refusal_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["/not/there"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith("tempo: no model at /not/there")


def test_help_is_exit_code_0_and_a_missing_model_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (serve.main(["--help"]), serve.main([])) == (0, 2)
    assert "tempo serve MODEL" in capsys.readouterr().out


# One server on a data directory ------------------------------------------------------------------

HOLDER = """
import time
from tempo_server.commands import serve
from tempo_server.settings import ServerSettings
with serve.only_one(ServerSettings()):
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_server() -> Iterator[subprocess.Popen[str]]:
    """Lock the data directory in another process; kill -9 ends it with the block."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


@pytest.mark.attack(
    "the front",
    "a second server on the data directory, socket and ledger of a running one",
    promise="it is refused in one line, until the first has ended",
)
def test_a_second_server_on_a_data_directory_is_refused_until_the_first_has_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seen: Callable[[object], None],
) -> None:
    root = tmp_path / "data"
    monkeypatch.setattr(serve, "_run", lambda *_: None)
    with another_server() as first:
        assert serve.main(arguments()) == 1
    output = capsys.readouterr()
    assert (output.out, (root / "tempo.db").exists()) == ("", False)
    assert output.err == (
        f"tempo: another `tempo serve` (pid {first.pid}) uses the data directory {root}; "
        "stop it, or set TEMPO_DATA_DIR to another directory\n"
    )
    assert serve.main(arguments()) == 0
    seen(f"{output.err.replace(str(root), 'DIRECTORY').strip()}; afterwards it started")


def test_a_server_locks_its_data_directory_as_long_as_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        with serve.only_one(ServerSettings()):
            pass

    monkeypatch.setattr(serve, "_run", run)
    assert serve.main(arguments()) == 1
    assert f"another `tempo serve` (pid {os.getpid()}) uses" in capsys.readouterr().err


def test_replicas_with_a_valkey_of_their_own_share_a_data_directory() -> None:
    settings = ServerSettings(redis_url="redis://valkey")
    with another_server(), serve.only_one(settings):
        pass


# Stores and children -----------------------------------------------------------------------------


def test_a_named_valkey_that_does_not_answer_is_refused() -> None:
    settings = ServerSettings(redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(CheckError, match=r"Valkey does not answer .*TEMPO_REDIS_URL"):
        serve.check_stores(settings)


@pytest.mark.parametrize("url", ["nonsense", "postgresql+psycopg://127.0.0.1:1/x"])
def test_a_database_that_does_not_answer_is_refused(url: str) -> None:
    with pytest.raises(CheckError, match=r"database cannot be used .*TEMPO_DATABASE_URL"):
        serve.check_stores(ServerSettings(database_url=url))


@pytest.mark.parametrize(
    ("flags", "variables", "key"),
    [
        ([], {}, None),
        (["--api-key", "k"], {}, "k"),
        (["--api-key", "k"], {"VLLM_API_KEY": "other"}, "k"),
        ([], {"VLLM_API_KEY": "k"}, "k"),
        ([], {"TEMPO_VLLM_API_KEY": "k"}, "k"),
        ([], {"TEMPO_VLLM_API_KEY": "other", "VLLM_API_KEY": "k"}, "k"),
    ],
)
def test_the_server_and_the_worker_get_one_users_key(
    flags: list[str],
    variables: dict[str, str],
    key: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server, worker = serve.child_environments(
        ["m", *flags], ServerSettings(), url="http://127.0.0.1:1", redis_url="unix:///x"
    )
    assert server.get("TEMPO_VLLM_API_KEY") == key
    assert worker == server | {"TEMPO_BASE_URL": "http://127.0.0.1:1"}


def test_a_public_address_without_a_users_key_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert serve.main([*arguments(), "--host", "0.0.0.0"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "--insecure-public allows it" in output.err
    monkeypatch.setenv("TEMPO_VLLM_API_KEY", "k")
    serve.check([*arguments(), "--host", "0.0.0.0"])


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ([], ["ready: http://127.0.0.1:{}/v1, model 'tempo'"]),
        (
            ["--host", "0.0.0.0", "--api-key", "k"],
            [
                "ready: http://0.0.0.0:{}/v1, model 'tempo'",
                "open to other machines, for whoever has the users' key",
            ],
        ),
        (
            ["--host=::", "--insecure-public"],
            [
                "ready: http://[::]:{}/v1, model 'tempo'",
                "open to other machines, for anybody, without a key",
            ],
        ),
    ],
)
def test_the_address_that_is_printed_is_the_one_that_is_bound(
    flags: list[str],
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The children are not started; their supervisor is ready at once."""

    class Ready:
        def __init__(self, *_: object, on_ready: Callable[[], None]) -> None:
            self.stop = self.run = on_ready

    monkeypatch.setattr(serve, "Supervisor", Ready)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    words = [*arguments(), *flags]
    serve._run(words, ServerSettings(redis_url="redis://127.0.0.1:1/0"))
    printed = [line.partition(" | ")[2] for line in capsys.readouterr().out.splitlines()]
    start = next(n for n, line in enumerate(printed) if line.startswith("ready"))
    assert printed[start : start + len(lines)] == [line.format(words[2]) for line in lines]
