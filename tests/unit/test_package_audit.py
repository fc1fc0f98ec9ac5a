"""The audit of the locked packages by the real pip-audit, against a database of this test."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

AUDIT = Path(__file__).parents[2] / "docker" / "audit.py"
SKIPPED = "pip-audit: the database cannot be reached; skipped\n"
CLOSED = "http://127.0.0.1:9"  # nothing listens on the port "discard"

VULNERABLE = {
    "id": "GHSA-1",
    "aliases": ["CVE-2026-1"],
    "summary": "runs what a request says",
    "affected": [
        {
            "package": {"name": "two", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "2.1"}]}],
        }
    ],
}


class Database(BaseHTTPRequestHandler):
    """Answers as OSV does: the package "two" has a vulnerability, "broken" gets an error."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        self.server.asked.append(f"{name}=={version}")  # type: ignore[attr-defined]
        body = json.dumps({"vulns": [VULNERABLE]} if name == "two" else {}).encode()
        self.send_response(503 if name == "broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def audit(
    tmp_path: Path, names: str, url: str, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Audit a lock with these packages against the OSV database at an address."""
    lock = tmp_path / "some.lock"
    lock.write_text("".join(f"{name} \\\n    --hash=sha256:0\n" for name in names.split()))
    env = {
        **{"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        **{"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url, **variables},
    }
    return subprocess.run(
        [sys.executable, AUDIT, lock, *options],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1/query"


def test_a_known_vulnerability_fails_and_says_which_version_mends_it(
    tmp_path: Path, database: ThreadingHTTPServer
) -> None:
    result = audit(tmp_path, "one==1.0+cpu two==2.0", address(database))
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "two 2.0: CVE-2026-1, GHSA-1; mended in: 2.1",
        "    runs what a request says",
        "pip-audit: 1 known vulnerabilities in 2 of 2 packages",
    ]
    assert set(database.asked) == {"one==1.0", "two==2.0"}  # type: ignore[attr-defined]


def test_a_vulnerability_that_an_operator_accepts_does_not_fail(
    tmp_path: Path, database: ThreadingHTTPServer
) -> None:
    result = audit(tmp_path, "two==2.0", address(database), "--ignore-vuln=GHSA-1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "pip-audit: 0 known vulnerabilities in 1 of 1 packages\n"


@pytest.mark.parametrize("names", ["broken==1", "one==1 broken==1"])
def test_a_database_that_answers_with_an_error_is_skipped(
    tmp_path: Path, database: ThreadingHTTPServer, names: str
) -> None:
    result = audit(tmp_path, names, address(database))
    assert (result.returncode, result.stdout) == (0, SKIPPED)


def test_without_a_network_the_audit_is_skipped(tmp_path: Path) -> None:
    result = audit(tmp_path, "one==1", CLOSED)
    assert (result.returncode, result.stdout) == (0, SKIPPED)
    own = {"PIP_AUDIT_VULNERABILITY_SERVICE": "pypi", "HTTPS_PROXY": CLOSED}  # PyPI's database
    result = audit(tmp_path, "one==1", "", **own)
    assert (result.returncode, result.stdout) == (0, SKIPPED)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_database_that_never_answers_is_skipped_after_the_time_out(
    tmp_path: Path, silent: str
) -> None:
    result = audit(tmp_path, "one==1 two==1", silent, "--timeout=1")
    assert (result.returncode, result.stdout) == (0, SKIPPED)


def script() -> ModuleType:
    """Import docker/audit.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_audit_ends_when_its_time_is_over(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", silent)
    start = time.monotonic()
    assert script().audit(["one==1"], ["--timeout=60"], 2.0) == []
    assert time.monotonic() - start < 30
    assert script().PROBE_SECONDS <= 30


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([], SKIPPED),
        (
            [{"name": "two", "version": "1", "vulns": []}],
            "pip-audit: 0 known vulnerabilities in 1 of 2 packages\n"
            "    the database does not know the others\n",
        ),
    ],
)
def test_packages_that_the_database_does_not_know_are_counted_and_if_it_knows_none_it_is_skipped(
    known: list[dict[str, object]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = script()
    unknown = {"name": "one", "skip_reason": "Dependency not found on PyPI"}
    answer = json.dumps({"dependencies": [unknown, *known]})
    (tmp_path / "some.lock").write_text("one==1\ntwo==1\n")
    monkeypatch.setattr(module, "PIP_AUDIT", ("sh", "-c", f"echo '{answer}'"))
    assert module.main([str(tmp_path / "some.lock")]) == 0
    assert capsys.readouterr().out == said


def test_a_wrong_option_is_no_missing_network() -> None:
    module = script()
    with pytest.raises(module.AuditError, match="unrecognized arguments: --no-such-option"):
        module.audit(["one==1"], ["--no-such-option"], 60.0)
