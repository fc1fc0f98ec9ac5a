"""What `tempo serve` refuses, in one line and before anything starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tempo_server.commands import serve
from tempo_server.commands.serve import ServeError
from tempo_server.settings import ServerSettings
from tempo_storage.errors import SettingsError
from tempo_storage.settings import checked


@pytest.fixture(autouse=True)
def _own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_DATA_DIR", str(tmp_path / "data"))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_all_is_well(tmp_path: Path) -> None:
    settings = serve.check(["org/model", "--port", free_port()])
    assert settings.root == tmp_path / "data"
    serve.check_stores(settings)
    assert (tmp_path / "data" / "tempo.db").exists()


@pytest.mark.parametrize("model", ["/not/there", "./not-there", "../not-there", "~/not-there"])
def test_a_path_that_is_not_there(model: str) -> None:
    with pytest.raises(ServeError, match=r"no model at .*not.there; give a directory"):
        serve.check([model, "--port", free_port()])


def test_a_flag_where_the_model_belongs() -> None:
    with pytest.raises(ServeError, match="--port stands where the model belongs"):
        serve.check(["--port", free_port()])


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_that_is_taken(host: str) -> None:
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} .*in use.*give another --port"):
            serve.check_port(host, port=port)


@pytest.mark.parametrize("port", ["http", "70000"])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(ServeError, match=f"--port {port} is no port"):
        serve.check(["org/model", f"--port={port}"])


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServeError, match=r"cannot write to .*\(Not a directory\).*TEMPO_DATA_DIR"):
        serve.check_disk(tmp_path / "file" / "data")


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="MiB are free in the data directory"):
        serve.check_disk(tmp_path, least_free=1 << 60)
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import time
from tempo_server.commands import serve
from tempo_server.settings import ServerSettings
with serve.alone(ServerSettings()):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_one() -> Iterator[subprocess.Popen[str]]:
    """Hold the data directory in another process, until the block ends it by kill -9."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_one_on_the_data_directory_is_refused_until_the_first_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setattr(serve, "_run", lambda *_: None)  # nothing starts, should it not be refused
    with another_one() as first:
        assert serve.main(["org/model", "--port", free_port()]) == 1
    shown = capsys.readouterr()
    assert (shown.out, (root / "tempo.db").exists()) == ("", False)
    assert shown.err == (
        f"tempo: another `tempo serve` (pid {first.pid}) runs on the data directory {root}; "
        "stop it, or set TEMPO_DATA_DIR to another directory\n"
    )
    assert serve.main(["org/model", "--port", free_port()]) == 0


def test_it_keeps_the_data_directory_as_long_as_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        with serve.alone(ServerSettings()):
            pass

    monkeypatch.setattr(serve, "_run", run)
    assert serve.main(["org/model", "--port", free_port()]) == 1
    assert f"another `tempo serve` (pid {os.getpid()}) runs" in capsys.readouterr().err


def test_replicas_share_a_data_directory_where_a_valkey_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    settings = ServerSettings(redis_url="redis://valkey")
    with another_one(), serve.alone(settings):
        pass


@pytest.mark.parametrize(
    ("module", "extra"),
    [("vllm", r"\[cpu\] or vllm-tempo\[gpu\]"), ("rq", r"\[server\]"), ("peft", r"\[trainer\]")],
)
def test_a_missing_extra(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ServeError, match=rf"{module} is missing; pip install 'vllm-tempo{extra}'"):
        serve.check(["org/model", "--port", free_port()])


def test_a_valkey_that_does_not_answer() -> None:
    settings = ServerSettings(redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(ServeError, match=r"Valkey cannot be used .*TEMPO_REDIS_URL"):
        serve.check_stores(settings)


@pytest.mark.parametrize("url", ["nonsense", "postgresql+psycopg://127.0.0.1:1/x"])
def test_a_database_that_does_not_answer(url: str) -> None:
    with pytest.raises(ServeError, match=r"database cannot be used .*TEMPO_DATABASE_URL"):
        serve.check_stores(ServerSettings(database_url=url))


def test_what_the_worker_could_not_reach() -> None:
    with pytest.raises(ServeError, match="--ssl-certfile: the worker needs plain HTTP"):
        serve.check(["org/model", "--ssl_certfile=x"])
    with pytest.raises(ServeError, match="--config: what a file says is not seen here"):
        serve.check(["org/model", "--config", "x.yaml"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TEMPO_CAPTUER", "off", "did you mean TEMPO_CAPTURE"),
        ("TEMPO_LORA_RANK", "0", "TEMPO_LORA_RANK is '0'; .*greater than or equal to 1"),
        ("TEMPO_GROUP_SIZE", "one", "TEMPO_GROUP_SIZE is 'one'"),
    ],
)
def test_a_setting_that_any_role_refuses(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        checked(ServerSettings)


def test_a_refusal_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["/not/there"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("tempo: no model at /not/there")


def test_help_says_how_and_no_model_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert (serve.main(["--help"]), serve.main([])) == (0, 2)
    assert "tempo serve MODEL" in capsys.readouterr().out


def test_the_worker_learns_where_the_server_is_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:1"
    assert serve.worker_environment(["m"], url=url) == {"TEMPO_BASE_URL": url}
    environment = serve.worker_environment(["m", "--api-key", "k"], url=url)
    assert environment["TEMPO_VLLM_API_KEY"] == "k"
    monkeypatch.setenv("VLLM_API_KEY", "other")
    told = serve.worker_environment(["m"], url=url)
    assert told == {"TEMPO_BASE_URL": url, "TEMPO_VLLM_API_KEY": "other"}
