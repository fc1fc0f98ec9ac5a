"""The admin API on a plain FastAPI app with a real ledger; Valkey is down throughout."""

import asyncio
import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tempo_server import keys
from tempo_server.admin.router import router
from tempo_server.capture.spool import Counters
from tempo_server.context import Context
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, version_name
from tempo_storage.ledger.models import Adapter
from tempo_storage.ledger.sessions import open_database
from tempo_storage.valkey.streams import QuestionStream, redis_client

BASE = "tiny-reasoner"


class Admin:
    """Sends requests to the app as an administrator would."""

    def __init__(self, app: FastAPI, context: Context) -> None:
        self.app = app
        self.context = context
        self.key = context.settings.admin_key_path.read_text().strip()

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._send(method, path, options))

    async def _send(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tempo") as client:
            return await client.request(method, path, headers=headers, **options)

    def upload(self, content: bytes, filename: str = "labeled.jsonl") -> httpx.Response:
        return self("POST", "/tempo/v1/files", files={"file": (filename, content)})

    def publish(self, version: int, status: str = "candidate", *, base: str = BASE) -> None:
        """Put an adapter into the store and the ledger."""
        name = version_name(version)
        manifest = self.context.store.publish(name, write_adapter, base=base, info={})
        row = Adapter(
            version=version,
            status=status,
            parent=0,
            job_id=f"ftjob-{version}",
            checkpoint="",
            sha256=manifest.sha256["adapter_model.safetensors"],
            bytes=manifest.bytes,
            report={"gate": "none"},
            created_at=float(version),
        )
        with self.context.sessions.begin() as s:
            s.add(row)

    def serving(self) -> int:
        with self.context.sessions.begin() as s:
            return ledger.versions.serving(s).version


def write_adapter(directory: Path) -> None:
    (directory / "adapter_config.json").write_text(json.dumps({"r": 4}))
    header = b"{}"
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    settings = ServerSettings(data_dir=tmp_path / "data")
    client = redis_client("redis://127.0.0.1:1/0")
    made = Context(
        settings=settings,
        sessions=open_database(settings.resolved_database_url),
        store=AdapterStore(settings.adapters_dir),
        stream=QuestionStream(client),
        redis=client,
        base=BASE,
        counters=Counters(),
    )
    keys.ensure_admin_key(made)
    yield made
    made.sessions.kw["bind"].dispose()
    client.close()


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """One app for all tests, each with its own context: building its routes is what takes time."""
    made = FastAPI()
    made.include_router(router)
    return made


@pytest.fixture
def admin(app: FastAPI, context: Context) -> Admin:
    app.state.tempo = context
    return Admin(app, context)


@pytest.fixture
def labeled() -> bytes:
    """Twelve labeled questions for the fast verifier."""
    return jsonl(
        {
            "messages": [{"role": "user", "content": f"{n} + {n} ?"}],
            "reference_answer": str(2 * n),
            "verifier": "exact",
        }
        for n in range(12)
    )


def jsonl(examples: Any) -> bytes:
    return "".join(json.dumps(example) + "\n" for example in examples).encode()


@pytest.fixture
def address(admin: Admin) -> Iterator[str]:
    """The app on a port of its own, for clients that want a real one."""
    config = uvicorn.Config(admin.app, port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)
