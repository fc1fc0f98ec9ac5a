"""The services of docker/compose.yaml learn together, as plain processes on real parts."""

import secrets
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from compose import Services
from postgres import Postgres, postgres_server
from rounds import finished, upload
from sqlalchemy.orm import Session
from waiting import eventually

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import MIGRATIONS

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.needs("postgresql")]

APPLIED = [migration.__name__ for migration in MIGRATIONS]
SPLIT = countdown.split(7, labeled=120, unlabeled=8, unseen=0)


def test_the_compose_services_learn_from_questions_and_serve_the_result(
    tiny_base: Path, tmp_path: Path
) -> None:
    with postgres_server(password=secrets.token_hex(8)) as postgres:
        learn_in(tmp_path, postgres, tiny_base)
        # Everything is in PostgreSQL and in the Valkey of the URL, nothing in the data directory.
        assert not (tmp_path / "state" / "tempo.db").exists()
        assert not (tmp_path / "state" / "valkey.sock").exists()
        engine = connect(postgres.url())
        with Session(engine) as s:
            assert ledger.versions.serving(s).version == 1
            assert ledger.jobs.find(s)[0].status == "succeeded"
        engine.dispose()


def learn_in(directory: Path, postgres: Postgres, model: Path) -> None:
    services = Services(directory, postgres, model)
    try:
        services.up("worker")
        services.wait("worker", "service_healthy")
        migrated = services.log("migrate").read_text()
        assert migrated.endswith(f"/tempo: applied {', '.join(APPLIED)}\n")
        learn_and_answer(services)
    except BaseException:
        print(services.tail("server"), services.tail("worker"), sep="\n")
        raise
    finally:
        codes = services.down()
    assert codes == {"migrate": 0, "valkey": 0, "server": 0, "worker": 0}


def learn_and_answer(services: Services) -> None:
    key = (services.root / "state" / "admin.key").read_text().strip()
    with (
        Tempo(base_url=services.base_url, api_key=key) as tempo,
        openai.OpenAI(
            base_url=f"{services.base_url}/v1", api_key=services.users_key, max_retries=0
        ) as client,
    ):
        assert answers(services) == {"/health": 200, "/metrics": 401, "/invocations": 401}
        assert answers(services, services.users_key)["/metrics"] == 200
        upload(tempo, SPLIT.labeled)
        for puzzle in SPLIT.unlabeled:
            ask(client, puzzle.question)
        eventually(lambda: tempo.status().questions.captured == len(SPLIT.unlabeled), seconds=30)
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
        assert job.status == "succeeded", job.error
        assert (job.result["decision"], job.result["adapter"]) == ("promoted", "tempo-v1")
        answer = ask(client, SPLIT.unlabeled[0].question)
        assert answer.headers["x-tempo-adapter"] == "tempo-v1"
        assert answer.parse().model == "tempo-v1"


def answers(services: Services, key: str = "wrong") -> dict[str, int]:
    """Return how the server answers a user with this key."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=services.base_url, headers=headers, timeout=30) as http:
        paths = ("/health", "/metrics", "/invocations")
        return {path: http.get(path).status_code for path in paths}


def ask(client: openai.OpenAI, question: str) -> Any:
    return client.chat.completions.with_raw_response.create(
        model="tempo", messages=[{"role": "user", "content": question}], max_tokens=16
    )
