"""The admin API on a plain FastAPI app with a real ledger; no Valkey answers in these tests."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from adapters import WEIGHTS, publish_empty_adapter
from asgi import send
from fastapi import FastAPI
from ledgers import candidate, opened

from tempo_server import keys
from tempo_server.admin import route
from tempo_server.admin.router import router
from tempo_server.context import Context
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, version_name
from tempo_storage.valkey.streams import QuestionStream, redis_client

BASE = "tiny-reasoner"


class Admin:
    """Sends requests to the app as an administrator would."""

    def __init__(self, app: FastAPI, context: Context) -> None:
        self.app = app
        self.context = context
        self.key = context.settings.admin_key_path.read_text().strip()

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return send(self.app, method, path, headers=headers, **options)

    def upload(self, content: bytes, filename: str = "labeled.jsonl") -> httpx.Response:
        return self("POST", "/tempo/v1/files", files={"file": (filename, content)})

    def publish(
        self, version: int, status: str = "candidate", *, base: str = BASE, rank: int = 8
    ) -> None:
        """Put an adapter into the store and the ledger."""
        name = version_name(version)
        manifest = publish_empty_adapter(self.context.store, name, base=base, rank=rank)
        row = candidate(
            version,
            status,
            job_id=f"ftjob-{version}",
            sha256=manifest.sha256[WEIGHTS],
            bytes=manifest.bytes,
            report={"gate": "none"},
        )
        with self.context.sessions.begin() as s:
            s.add(row)
            ledger.published.add(s, manifest)

    def serving(self) -> int:
        with self.context.sessions.begin() as s:
            return ledger.versions.serving(s).version


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    settings = ServerSettings(data_dir=tmp_path / "data")
    client = redis_client("redis://127.0.0.1:1/0")
    with opened(settings.resolved_database_url) as sessions:
        context = Context(
            settings=settings,
            sessions=sessions,
            store=AdapterStore(settings.adapters_dir),
            stream=QuestionStream(client),
            redis=client,
            base=BASE,
            max_lora_rank=16,
        )
        keys.ensure_admin_key(context)
        yield context
    client.close()


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """One app for all tests, because its routes take long to build; each test has a context."""
    app = FastAPI()
    route.install(app)
    app.include_router(router)
    return app


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
    """The URL of the app on a port of its own, for clients that need a real server."""
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
