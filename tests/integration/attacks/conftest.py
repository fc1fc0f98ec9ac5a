"""A server and a worker that are attacked all the time, and must not notice."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from attackers import LIMIT, POOL, PROXY, SILENT, TENANT_HEADER, USERS_KEY, HonestUser
from processes import install, with_python_path
from servers import Server, serving
from waiting import eventually

from tempo_server.capture.tenants import id_of
from tempo_storage import ledger

COMMON = {"TEMPO_VLLM_API_KEY": USERS_KEY}
SERVER = {
    "TEMPO_TENANT_HEADER": TENANT_HEADER,
    "TEMPO_TRUSTED_PROXIES": PROXY,
    "TEMPO_TENANT_BY_ADDRESS": "true",
    "TEMPO_TENANT_QUESTIONS_PER_MINUTE": str(LIMIT),
    "TEMPO_REDACTORS": "personal",
    "TEMPO_OPT_OUT_KEYS": id_of(SILENT),
}
WORKER = {"TEMPO_POOL_QUESTIONS": str(POOL), "TEMPO_SENTINEL_SECONDS": "0"}
HANGING = """
import time

class Hanging:
    name = "hanging"
    def check_reference(self, reference):
        time.sleep(600)
    def verify(self, response, reference, metadata):
        time.sleep(600)
"""
ENTRY_POINTS = "[tempo.verifiers]\nhanging = hanging_verifier:Hanging\n"


@pytest.fixture(scope="package")
def stack(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a users' key, a proxy that names tenants, a redactor, a verifier that hangs."""
    plugins = tmp_path_factory.mktemp("plugins")
    install(plugins, "hanging_verifier", HANGING, entry_points=ENTRY_POINTS)
    common = COMMON | with_python_path(plugins)
    with serving(
        tiny_base,
        tmp_path_factory.mktemp("attacked"),
        env=common | SERVER,
        worker_env=common | WORKER,
    ) as server:
        server.http.headers["Authorization"] = f"Bearer {USERS_KEY}"
        yield server


@pytest.fixture(scope="package")
def worker_process(stack: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The worker of the server, which holds the lease."""

    def has_lease() -> bool:
        with stack.sessions() as s:
            return ledger.leases.current(s) is not None

    with stack.worker() as process:
        eventually(has_lease, seconds=120)
        yield process


@pytest.fixture(scope="package")
def honest(stack: Server, worker_process: subprocess.Popen[bytes]) -> Iterator[HonestUser]:
    """A user whose questions are stored, whatever the others do."""
    user = HonestUser(stack)
    yield user
    user.close()


@pytest.fixture(scope="package")
def admin(stack: Server) -> Iterator[httpx.Client]:
    """A client of the admin API with all scopes."""
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    with httpx.Client(base_url=stack.base_url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _unharmed(stack: Server, worker_process: subprocess.Popen[bytes]) -> Iterator[None]:
    """After each attack both processes live."""
    yield
    assert stack.process is not None
    assert (stack.process.poll(), worker_process.poll()) == (None, None)


@pytest.fixture(autouse=True, scope="module")
def _learning(honest: HonestUser) -> Iterator[None]:
    """After the attacks of a file an honest user's question is stored."""
    yield
    assert honest.seconds_until_stored() < 30
