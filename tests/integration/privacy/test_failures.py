"""A question's text is in no log, event, job, answer or store of Valkey, whatever fails."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import send
from canaries import canary, files_with
from fastapi import FastAPI
from ledgers import captured, hold_lease
from processes import install
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from valkeys import embedded_valkey

from tempo_server.admin import questions as question_routes
from tempo_server.admin.router import router
from tempo_server.context import Context
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.ledger.models import DeadLetter, Event, Job
from tempo_storage.valkey import streams
from tempo_storage.valkey.streams import QuestionStream, redis_client
from tempo_trainer.jobs.lifecycle import Jobs
from tempo_trainer.sampling.sampler import Sampler, SamplingError
from tempo_trainer.sampling.verifier_pool import Item, VerifierError, VerifierPool, raise_if_failed
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker.stream_reader import StreamReader
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = pytest.mark.service

TEXT = canary("question")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail each test in which a line of a log, of standard output or error has the text."""
    caplog.set_level(logging.DEBUG)
    yield
    assert TEXT not in caplog.text
    output = capfd.readouterr()
    assert TEXT not in output.out + output.err


def shown(sessions: sessionmaker[Session]) -> str:
    """Return everything that the ledger shows to an operator."""
    with sessions() as s:
        events = [(e.message, e.data) for e in s.scalars(select(Event))]
        jobs = [(j.error, j.progress, j.result) for j in s.scalars(select(Job))]
        reasons = list(s.scalars(select(DeadLetter.reason)))
    return json.dumps([events, jobs, reasons])


# The drain ---------------------------------------------------------------------------------------


class OneEntry:
    """A stream with one entry."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.acknowledged: list[str] = []

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        return [("1", self.question)]

    def acknowledge(self, entry_ids: list[str]) -> None:
        self.acknowledged += entry_ids


@pytest.mark.parametrize(
    "fields",
    [
        {"captured_at": TEXT},
        {"temperature": TEXT, "messages": TEXT},
        {"messages": [TEXT]},
        {"messages": [{TEXT: TEXT}]},
        {"id": {TEXT: TEXT}},
        {"id": "\0" + TEXT, "tenant": [TEXT]},
    ],
)
@pytest.mark.attack(
    "privacy",
    "entries that fail in the drain, with the question in every field",
    promise="no event, log or reason has the text",
)
def test_an_entry_that_cannot_be_stored_leaves_only_the_class_of_its_error(
    sessions: sessionmaker[Session], fields: dict[str, Any], seen: Callable[[object], None]
) -> None:
    stream: Any = OneEntry(captured("q", TEXT) | fields)
    assert StreamReader(stream, sessions, keep=100).step() == 0.0
    assert TEXT not in shown(sessions)
    seen(f"the text is in {shown(sessions).count(TEXT)} places")


@pytest.mark.parametrize("damage", ["no table", "locked", "full"])
@pytest.mark.attack(
    "privacy",
    "a database without a table, locked, full",
    promise="no event or log has a parameter",
)
def test_a_database_that_fails_shows_no_parameter(
    sessions: sessionmaker[Session],
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    seen: Callable[[object], None],
) -> None:
    stream: Any = OneEntry(captured("q", TEXT))
    reader = StreamReader(stream, sessions, keep=100)
    if damage == "no table":
        with sessions.begin() as s:
            s.execute(text("DROP TABLE questions"))
    elif damage == "full":
        with sessions.begin() as s:
            s.execute(
                text(
                    "CREATE TRIGGER full BEFORE INSERT ON questions BEGIN "
                    "SELECT RAISE(ABORT, 'disk full'); END"
                )
            )
    else:
        error = OperationalError("INSERT", {"messages": TEXT}, Exception("database is locked"))
        error.hide_parameters = True
        monkeypatch.setattr(ledger.pool, "add", lambda *_: (_ for _ in ()).throw(error))
    reader.step()
    assert TEXT not in shown(sessions)
    seen(f"the text is in {shown(sessions).count(TEXT)} places")


# Jobs ---------------------------------------------------------------------------------------------


def fail_with_cause() -> None:
    try:
        json.loads(f'{{"{TEXT}": ')
        raise AssertionError
    except ValueError as error:
        raise RuntimeError(f"cannot read {TEXT}") from error


def fail_in_sql() -> None:
    raise OperationalError("INSERT", {"messages": TEXT}, Exception("gone"), hide_parameters=True)


FAILURES: list[Callable[[], None]] = [
    fail_with_cause,
    fail_in_sql,
    lambda: {}[TEXT],
    lambda: int(TEXT),
]


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.attack(
    "privacy",
    "jobs that fail with the question in the error, its cause or its SQL",
    promise="no job, event or log has the text",
)
def test_a_job_that_fails_shows_no_text_in_job_event_or_log(
    sessions: sessionmaker[Session],
    tmp_path: Path,
    fail: Any,
    monkeypatch: pytest.MonkeyPatch,
    seen: Callable[[object], None],
) -> None:
    epoch = hold_lease(sessions)
    jobs = Jobs(
        WorkerSettings(data_dir=tmp_path), LeasedSessions(sessions, lambda: epoch), lambda: False
    )
    monkeypatch.setattr(jobs, "_perform", lambda job_id: fail())
    with sessions.begin() as s:
        ledger.jobs.create(s, "job", "round", {})
    jobs.run("job")
    assert TEXT not in shown(sessions)
    seen(f"the text is in {shown(sessions).count(TEXT)} places")


# Valkey ------------------------------------------------------------------------------------------


@pytest.mark.attack(
    "privacy",
    "Valkey refuses a question and quotes it",
    promise="no error has the text",
)
def test_a_command_that_valkey_refuses_quotes_no_question(
    tmp_path: Path, seen: Callable[[object], None]
) -> None:
    with embedded_valkey(tmp_path) as valkey:
        client = redis_client(valkey.url, timeout_seconds=5.0)
        client.execute_command("ACL", "SETUSER", "default", "-xadd")
        with pytest.raises(StreamUnavailableError) as caught:
            QuestionStream(client).append([captured("q", TEXT)])
        # Some releases of the client cut the command that they quote, some do not.
        assert TEXT[:4] not in f"{caught.value!r} {caught.value.__cause__!r}"
        client.set("tempo:questions", "taken")
        client.execute_command("ACL", "SETUSER", "default", "+xadd")
        with pytest.raises(StreamUnavailableError, match="WRONGTYPE"):
            QuestionStream(client).append([captured("q", TEXT)])
        with pytest.raises(StreamUnavailableError) as caught, streams._unavailable():
            client.execute_command("XADDX", TEXT)
        assert TEXT not in f"{caught.value!r} {caught.value.__cause__!r}"
        client.close()
        assert files_with(TEXT, tmp_path) == []
    seen(f"in {len(files_with(TEXT, tmp_path))} files")


# Verifiers and vLLM ------------------------------------------------------------------------------

PLUGIN = """
import ctypes, os, sys

class Odd:
    name = "odd"
    def check_reference(self, reference):
        return None
    def verify(self, response, reference, metadata):
        if "raise" in response:
            raise ValueError(response)
        if "exit" in response:
            sys.exit(response)
        if "interrupt" in response:
            raise KeyboardInterrupt(response)
        ctypes.string_at(0)
"""


@pytest.mark.parametrize("way", ["raise", "exit", "interrupt", "crash"])
@pytest.mark.attack(
    "privacy",
    "a verifier that raises, exits, is interrupted or crashes on a response",
    promise="no message or core file has the response",
)
def test_a_verifier_that_crashes_shows_no_response_and_leaves_no_core(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, seen: Callable[[object], None]
) -> None:
    install(
        tmp_path, "odd_verifier", PLUGIN, entry_points="[tempo.verifiers]\nodd = odd_verifier:Odd\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    with VerifierPool(["odd"]) as pool:
        verdicts = pool.verify([Item("odd", f"{way} {TEXT}", ["1"], {})] * 16)
    assert all(verdict.failed for verdict in verdicts)
    with pytest.raises(VerifierError) as caught:
        raise_if_failed(verdicts)
    assert TEXT not in f"{verdicts} {caught.value}"
    assert files_with(TEXT, tmp_path) == []
    seen(f"{way}: in {len(files_with(TEXT, tmp_path))} files")


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_question_that_vllm_refuses_is_not_quoted_from_its_answer(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": {"message": f"bad: {request.content!r}"}})

    sampler = Sampler(
        WorkerSettings(data_dir=tmp_path), key="tk_x", transport=httpx.MockTransport(refuse)
    )
    rows = [type("Row", (), {"content_hash": "a", "messages": [{"content": TEXT}]})()]
    if status == 500:
        with pytest.raises(SamplingError, match=r"vLLM answered 500 to /tokenize$"):
            sampler.prompts(rows)
    else:
        assert sampler.prompts(rows) == []
        assert f"vLLM refuses it: vLLM answered {status} to /tokenize" in caplog.text
    sampler.close()


# The admin API -----------------------------------------------------------------------------------


@pytest.fixture
def admin(sessions: sessionmaker[Session], tmp_path: Path) -> Any:
    nothing: Any = None
    settings = ServerSettings(data_dir=tmp_path)
    context = Context(settings, sessions, nothing, nothing, nothing, "tiny", 16)
    from tempo_server import keys

    keys.ensure_admin_key(context)
    app = FastAPI()
    app.include_router(router)
    app.state.tempo = context
    key = settings.admin_key_path.read_text().strip()

    def request(method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return send(app, method, f"/tempo/v1/{path}", headers=headers, **options)

    return request


@pytest.mark.parametrize(
    "body",
    [
        {"question": [TEXT]},
        {"question": {"text": TEXT}},
        {"question": TEXT * 4_000},
        {"question": f"{TEXT}\0"},
        [TEXT],
        TEXT,
    ],
)
def test_an_invalid_request_is_refused_without_its_text(admin: Any, body: Any) -> None:
    reply = admin("POST", "questions/learned", json=body)
    assert reply.status_code == 400
    assert TEXT not in reply.text


def test_a_body_that_is_no_json_is_refused_without_its_text(admin: Any) -> None:
    reply = admin("POST", "questions/learned", content=f'{{"question": "{TEXT}'.encode())
    assert reply.status_code == 400
    assert TEXT not in reply.text


@pytest.mark.parametrize("fail", FAILURES)
def test_a_route_that_fails_answers_and_logs_no_text(
    admin: Any, fail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_routes.ledger.learned, "versions_from", lambda *_: fail())
    reply = admin("POST", "questions/learned", json={"question": TEXT})
    assert reply.status_code in (500, 503)
    assert TEXT not in reply.text


# Core files --------------------------------------------------------------------------------------


def test_a_worker_that_crashes_writes_no_core(tmp_path: Path) -> None:
    script = (
        "import sys; from tempo_trainer.worker import process\n"
        "process.Worker = lambda *_: print(open('/proc/self/limits').read()) or sys.exit(0)\n"
        "process.main()"
    )
    environment = os.environ | {"TEMPO_DATA_DIR": str(tmp_path), "TEMPO_REDIS_URL": "redis://x"}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    line = next(line for line in ended.stdout.splitlines() if "core file" in line)
    assert line.split()[4:6] == ["0", "0"]
