"""Privacy of a running server: vLLM with the plugin, Valkey and SQLite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from canaries import canary, files_with
from traffic import ask
from waiting import eventually

from tempo_storage import private
from tempo_storage.ledger.tenants import ANONYMOUS

pytestmark = [pytest.mark.vllm, pytest.mark.service]


@pytest.mark.attack(
    "privacy",
    "an erasure while Valkey is dead and questions wait on the server's disk",
    promise="the answer says what remains; after Valkey's return nothing does",
)
def test_an_erasure_reaches_the_stream_and_the_spool_of_a_running_server(
    server: Any, seen: Callable[[object], None]
) -> None:
    ask(server, canary("streamed"))
    eventually(lambda: server.stream.backlog() > 0, seconds=20)
    assert files_with(canary("streamed"), server.data_dir) != []
    server.valkey.process.kill()
    server.valkey.process.wait(10)
    ask(server, canary("spooled"))
    assert any("spool/" in name for name in files_with(canary("spooled"), server.data_dir))
    with server.admin() as tempo:
        (remains,) = tempo.questions.erase(ANONYMOUS).remains  # the server's spool has answered
        assert remains.startswith("Valkey's stream or its file")
        assert files_with(canary("spooled"), server.data_dir) == []
        assert server.valkey.restart_if_dead()
        eventually(lambda: tempo.questions.erase(ANONYMOUS).remains == [], seconds=20)
    for name in ("streamed", "spooled"):
        assert files_with(canary(name), server.data_dir) == []  # vLLM's log is there, too
    seen(f"{len(files_with(canary('streamed'), server.data_dir))} files hold them at the end")


@pytest.mark.attack(
    "privacy",
    "a crash of the server or its engine",
    promise="no core file, which would hold questions",
)
def test_the_running_server_keeps_its_files_to_itself_and_writes_no_core(
    server: Any, seen: Callable[[object], None]
) -> None:
    server_process = psutil.Process(server.pid)
    assert private.exposed(server.data_dir) == []
    for process in (server_process, *server_process.children(recursive=True)):
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        (line,) = [line for line in limits if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"], process.name()
    seen(f"core files of at most {line.split()[4]} bytes")
