"""Each check of `tempo doctor` finds its trouble and names the fix."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tempo_server.commands import doctor
from tempo_server.settings import DoctorSettings
from tempo_storage import ledger
from tempo_storage.ledger.sessions import open_database

STATUS = {
    "serving_adapter": "tempo-v1",
    "warnings": [],
    "processes": [{"error": None}],
}


def settings(tmp_path: Path) -> DoctorSettings:
    (tmp_path / "admin.key").write_text("tk_x\n")
    return DoctorSettings(data_dir=tmp_path)


def server_checks(
    tmp_path: Path, handle: Callable[[httpx.Request], httpx.Response]
) -> dict[str, doctor.Check]:
    transport = httpx.MockTransport(handle)
    with httpx.Client(base_url="http://tempo", transport=transport) as http:
        return {check.name: check for check in doctor.check_server(http, settings(tmp_path))}


def answering(
    status: dict[str, Any], *, code: int = 200
) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/tempo/healthz":
            return httpx.Response(200)
        assert request.headers["authorization"] == "Bearer tk_x"
        return httpx.Response(code, json=status)

    return handle


def test_a_healthy_server_passes(tmp_path: Path) -> None:
    checks = server_checks(tmp_path, answering(STATUS))
    assert list(checks) == ["server", "key", "flags", "serving"]
    assert all(check.ok for check in checks.values())


def test_the_key_s_file_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.key").write_text("tk_mine\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor._key(DoctorSettings(api_key_file="~/mine.key")) == "tk_mine"


def test_no_server(tmp_path: Path) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert "TEMPO_BASE_URL" in str(server_checks(tmp_path, refuse)["server"])


def test_a_vllm_without_the_plugin(tmp_path: Path) -> None:
    check = server_checks(tmp_path, lambda _: httpx.Response(404))["server"]
    assert str(check).startswith("FAIL")
    assert "VLLM_PLUGINS=tempo" in check.fix


@pytest.mark.parametrize(
    ("status", "code", "failed", "said"),
    [
        ({}, 401, "key", "401"),
        (STATUS | {"warnings": ["--max-loras is 1: use 5"]}, 200, "flags", "--max-loras is 1"),
        (STATUS | {"processes": [{"error": "sha differs"}]}, 200, "serving", "sha differs"),
    ],
)
def test_what_the_server_says_of_itself(
    tmp_path: Path, status: dict[str, Any], code: int, failed: str, said: str
) -> None:
    checks = server_checks(tmp_path, answering(status, code=code))
    assert [name for name, check in checks.items() if not check.ok] == [failed]
    assert said in checks[failed].found


@pytest.mark.parametrize(
    ("allowed", "ok"),
    [(None, True), ("tempo,tempo_cpu_lora,x", True), ("tempo", False), ("", False)],
)
def test_plugins_that_vllm_may_not_load(allowed: str | None, ok: bool) -> None:
    assert doctor.check_plugins(allowed).ok == ok


def test_vllm_is_found_under_either_name() -> None:
    check = doctor.check_vllm()
    assert check.ok
    assert check.found.startswith("vllm")


def test_the_disk(tmp_path: Path) -> None:
    assert doctor.check_room(tmp_path / "not" / "there").ok
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert "TEMPO_DATA_DIR" in doctor.check_room(tmp_path / "file").fix


def test_a_valkey_that_is_down(tmp_path: Path) -> None:
    check = doctor.check_valkey(f"unix://{tmp_path / 'valkey.sock'}")
    assert (check.ok, "does not answer" in check.found) == (False, True)


def ledger_checks(url: str) -> dict[str, bool]:
    return {check.name: check.ok for check in doctor.check_ledger(url)}


def test_the_ledger_and_the_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tempo.db'}"
    assert ledger_checks(url) == {"database": False}
    assert not (tmp_path / "tempo.db").exists()
    sessions = open_database(url)
    assert ledger_checks(url) == {"database": True, "worker": False}
    with sessions.begin() as s:
        ledger.leases.acquire(s, ledger.leases.TRAINER, "host:1", 30.0)
    assert ledger_checks(url) == {"database": True, "worker": True}
    with sessions.begin() as s:
        s.execute(text("DELETE FROM migrations"))
        ledger.leases.release(s, ledger.leases.TRAINER, 1)
    assert ledger_checks(url) == {"database": False, "worker": False}
    sessions.kw["bind"].dispose()


def test_a_database_that_is_down() -> None:
    assert ledger_checks("postgresql+psycopg://127.0.0.1:1/x") == {"database": False}


@pytest.fixture
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPO_BASE_URL", "http://127.0.0.1:1")


@pytest.mark.usefixtures("_nothing_runs")
def test_it_fails_in_lines_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "settings"],
        ["ok", "vllm"],
        ["ok", "plugins"],
        ["ok", "disk"],
        ["FAIL", "valkey"],
        ["FAIL", "database"],
        ["FAIL", "server"],
    ]
    assert doctor.main(["--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert all(bool(check["fix"]) is not check["ok"] for check in shown)


@pytest.mark.usefixtures("_nothing_runs")
def test_an_unknown_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPO_CAPTUER", "off")
    assert doctor.main([]) == 1
    assert "TEMPO_CAPTUER; did you mean TEMPO_CAPTURE" in capsys.readouterr().out
