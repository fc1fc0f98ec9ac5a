"""The SDK by itself, on a transport that answers what the test says."""

import asyncio
import inspect
import json
import subprocess
import sys
import types as python_types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import tempo_client
from tempo_client import Tempo
from tempo_client._credentials import find_api_key, find_base_url
from tempo_client._protocol import Failure, Request, Response, complete, exchange
from tempo_client.types import File, Key, Status

JOB = {"id": "j", "status": "queued", "created_at": 1}
ADAPTER = {"id": "tempo-v1", "version": 1, "status": "serving", "created_at": 1}
IDEMPOTENT = Request("GET", "/x", idempotent=True)
ONCE = Request("POST", "/x")


def response(status: int, body: Any = None, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, json.dumps(body or {}).encode())


def drive(request: Request, *outcomes: Any, jitter: float = 0.0, **options: Any) -> Any:
    """Feed outcomes to an exchange; return its result or error, and its pauses."""
    waiting, pauses = list(outcomes), []

    async def send(sent: Request) -> Any:
        assert sent is request
        return waiting.pop(0)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    try:
        coroutine = exchange(request, send, sleep, jitter=lambda: jitter, **options)
        result: Any = complete(coroutine)
    except tempo_client.TempoError as error:
        result = error
    assert waiting == [], "a retry did not come"
    return result, pauses


def client(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> Tempo:
    transport = httpx.MockTransport(handler)
    return Tempo("http://tempo", api_key="tk_x", transport=transport, **options)


# Retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_idempotent_requests_are_tried_three_times(status: int) -> None:
    result, pauses = drive(IDEMPOTENT, response(status), response(status), response(200, {"a": 1}))
    assert result == {"a": 1}
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("outcome", [response(503), Failure(OSError(), sent=True)])
def test_what_may_have_been_done_is_not_done_twice(outcome: Any) -> None:
    result, pauses = drive(ONCE, outcome)
    assert isinstance(result, tempo_client.APIError)
    assert pauses == []


def test_what_was_never_sent_is_sent_again() -> None:
    result, pauses = drive(ONCE, Failure(OSError(), sent=False), response(200, {"a": 1}))
    assert (result, pauses) == ({"a": 1}, [0.5])


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    result, pauses = drive(IDEMPOTENT, response(status))
    assert (result.status_code, pauses) == (status, [])


def test_the_server_may_forbid_a_retry() -> None:
    result, _ = drive(IDEMPOTENT, response(507, x_should_retry="false"))
    assert result.status_code == 507


@pytest.mark.parametrize(
    ("asked", "pause"), [("7", 7.0), ("0", 0.5), ("3600", 0.5), ("soon", 0.5), ("nan", 0.5)]
)
def test_retry_after_is_honoured_within_reason(asked: str, pause: float) -> None:
    _, pauses = drive(IDEMPOTENT, response(503, retry_after=asked), response(200))
    assert pauses == [pause]


def test_pauses_double_up_to_eight_seconds_and_jitter_shortens_them() -> None:
    answers = [response(500)] * 6 + [response(200)]
    _, pauses = drive(IDEMPOTENT, *answers, jitter=1.0, max_retries=6)
    assert pauses == [0.375, 0.75, 1.5, 3.0, 6.0, 6.0]


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, tempo_client.BadRequestError),
        (401, tempo_client.AuthenticationError),
        (403, tempo_client.PermissionDeniedError),
        (404, tempo_client.NotFoundError),
        (409, tempo_client.ConflictError),
        (418, tempo_client.APIStatusError),
        (422, tempo_client.UnprocessableEntityError),
        (429, tempo_client.RateLimitError),
        (500, tempo_client.InternalServerError),
        (507, tempo_client.InternalServerError),
    ],
)
def test_each_status_has_its_class(status: int, kind: type[Exception]) -> None:
    error = {"message": "why", "code": "c", "param": "p", "line_errors": [{"line": 1}]}
    outcomes = [response(status, {"error": error}, x_request_id="req_1")]
    result, _ = drive(Request("POST", "/x"), *outcomes)
    assert type(result) is kind
    assert (result.code, result.param, result.request_id) == ("c", "p", "req_1")
    assert str(result) == f"{status} on POST /x: why"
    if status == 400:
        assert result.line_errors == [{"line": 1}]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error": "Unauthorized"}', b"", b"\xff"])
def test_an_error_of_another_shape_is_still_an_error(content: bytes) -> None:
    result, _ = drive(ONCE, Response(401, {}, content))
    assert isinstance(result, tempo_client.AuthenticationError)
    assert result.code is None


@pytest.mark.parametrize("content", [b"<html>", b"[]", b""])
def test_a_server_that_is_no_tempo_is_recognised(content: bytes) -> None:
    result, _ = drive(IDEMPOTENT, Response(200, {}, content))
    assert isinstance(result, tempo_client.APIError)
    assert "tempo plugin" in str(result)


@pytest.mark.parametrize(
    ("raised", "kind", "tries"),
    [
        (httpx.ConnectError("refused"), tempo_client.APIConnectionError, 2),
        (httpx.ConnectTimeout("slow"), tempo_client.APITimeoutError, 2),
        (httpx.ReadTimeout("slow"), tempo_client.APITimeoutError, 1),
        (httpx.RemoteProtocolError("cut"), tempo_client.APIConnectionError, 1),
    ],
)
def test_transport_errors_are_ours_and_only_unsent_ones_are_retried(
    raised: Exception, kind: type[Exception], tries: int
) -> None:
    requests = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        raise raised

    with client(handler, max_retries=1) as tempo, pytest.raises(kind) as caught:
        tempo.jobs.create()
    assert len(requests) == tries
    assert caught.value.__cause__ is raised


def test_errors_are_also_those_of_the_standard_library() -> None:
    assert issubclass(tempo_client.NotFoundError, LookupError)
    assert issubclass(tempo_client.APITimeoutError, TimeoutError)
    assert issubclass(tempo_client.APIConnectionError, ConnectionError)
    assert issubclass(tempo_client.ConfigurationError, ValueError)
    assert issubclass(tempo_client.JobTimeoutError, TimeoutError)


# Operations --------------------------------------------------------------------------------------


def test_requests_carry_the_key_and_are_json_or_multipart() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        body = JOB if "jobs" in request.url.path else {"bytes": 1, "filename": "x"} | JOB
        return httpx.Response(200, json=body)

    with client(handler) as tempo:
        tempo.jobs.create("recalibrate", training_file="file-1", max_steps=5, auto_promote=False)
        tempo.files.create([{"question": "é"}])
    job, file = seen
    assert job.headers["authorization"] == "Bearer tk_x"
    assert job.url == "http://tempo/tempo/v1/fine_tuning/jobs"
    assert json.loads(job.content) == {
        "training_file": "file-1",
        "tempo": {"mode": "recalibrate", "max_steps": 5, "auto_promote": False},
    }
    assert file.headers["content-type"].startswith("multipart/form-data")
    assert '{"question": "é"}\n'.encode() in file.content


def test_only_calls_that_may_be_repeated_are_repeated() -> None:
    counts: dict[str, int] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        name = f"{request.url.path.removeprefix('/tempo/v1')} {request.content.decode()}"
        counts[name] = counts.get(name, 0) + 1
        return httpx.Response(503, headers={"retry-after": "0.001"})

    with client(handler) as tempo:
        calls: list[tuple[Callable[[], object], int]] = [
            (tempo.status, 3),
            (tempo.jobs.create, 1),
            (lambda: tempo.jobs.cancel("j"), 3),
            (lambda: tempo.adapters.promote("tempo-v1"), 3),
            (lambda: tempo.adapters.promote("tempo-v1", expected_current="tempo-v0"), 1),
            (tempo.adapters.rollback, 1),
            (lambda: tempo.adapters.rollback("tempo-v0"), 3),
            (tempo.training.pause, 3),
            (lambda: tempo.keys.create("ci"), 1),
            (lambda: tempo.keys.delete("0a"), 3),
        ]
        for call, _ in calls:
            with pytest.raises(tempo_client.InternalServerError):
                call()
    assert list(counts.values()) == [times for _, times in calls]


def test_lists_are_read_to_their_end() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params.get("after", 0))
        page = [JOB | {"id": str(after + n)} for n in (1, 2)]
        return httpx.Response(200, json={"data": page, "has_more": after < 4})

    with client(handler) as tempo:
        assert [job.id for job in tempo.jobs.list()] == ["1", "2", "3", "4", "5", "6"]


def test_wait_returns_what_succeeded_and_raises_what_failed() -> None:
    statuses = iter(["queued", "running", "succeeded", "running", "failed"])

    def handler(_: httpx.Request) -> httpx.Response:
        error = {"message": "out of memory"}
        return httpx.Response(200, json=JOB | {"status": next(statuses), "error": error})

    with client(handler) as tempo:
        assert tempo.jobs.wait("j", poll_seconds=0.001).status == "succeeded"
        with pytest.raises(tempo_client.JobFailedError, match="out of memory") as caught:
            tempo.jobs.wait("j", poll_seconds=0.001)
    assert caught.value.job is not None
    assert caught.value.job.status == "failed"


def test_unknown_fields_are_kept_and_missing_ones_are_said() -> None:
    body = {"object": "file", "id": "f", "bytes": 1, "created_at": 1, "filename": "x", "new": 2}
    file = File.parse(body | {"tempo": {"examples": 9, "newer": 3}})
    assert (file.examples, file.extra) == (9, {"new": 2, "newer": 3})
    answers = httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "j", "created_at": 1}))
    tempo = Tempo("http://t", api_key="k", transport=answers)
    with tempo, pytest.raises(tempo_client.APIError, match="status"):
        tempo.jobs.retrieve("j")


def test_a_key_that_was_made_can_be_logged_without_its_secret() -> None:
    made = Key.parse({"object": "key", "id": "0a", "name": "ci", "key": "tk_secret"})
    assert made.key == "tk_secret"
    assert "ci" in repr(made)
    assert "tk_secret" not in repr(made)


def test_nested_objects_are_parsed() -> None:
    event = {"id": "e", "created_at": 1, "level": "error", "type": "t", "message": "m"}
    process = {"id": "p", "version": 1, "sequence": 2}
    body = {"model": "m", "serving_adapter": "tempo-v1", "questions": {"captured": 5}}
    status = Status.parse(body | {"last_error": event, "processes": [process]})
    assert status.questions.captured == 5
    assert status.last_error is not None
    assert status.last_error.message == "m"
    assert status.processes[0].sequence == 2
    assert Status.parse(body | {"last_error": None}).last_error is None


# Credentials, the official client, names ---------------------------------------------------------


def test_the_key_comes_from_the_environment_a_file_or_the_data_directory(tmp_path: Path) -> None:
    named, default = tmp_path / "named.key", tmp_path / "data" / "admin.key"
    default.parent.mkdir()
    named.write_text("tk_named\n")
    default.write_text("tk_default\n")
    environ = {"TEMPO_DATA_DIR": str(default.parent)}
    assert find_api_key(environ) == "tk_default"
    environ |= {"TEMPO_API_KEY_FILE": str(named)}
    assert find_api_key(environ) == "tk_named"
    assert find_api_key(environ | {"TEMPO_API_KEY": " tk_given "}) == "tk_given"
    named.write_text("\n")
    with pytest.raises(tempo_client.ConfigurationError, match="is empty"):
        find_api_key(environ)
    with pytest.raises(tempo_client.ConfigurationError, match="TEMPO_API_KEY_FILE"):
        find_api_key({"TEMPO_API_KEY_FILE": str(tmp_path / "none")})


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_base_url({}) == "http://127.0.0.1:8000"
    monkeypatch.setenv("TEMPO_BASE_URL", "http://elsewhere:9/")
    with Tempo(api_key="tk_x") as tempo:
        assert tempo.base_url == "http://elsewhere:9"


def test_the_official_client_is_aimed_at_the_same_server() -> None:
    with client(lambda _: httpx.Response(200)) as tempo, tempo.openai() as official:
        assert str(official.base_url) == "http://tempo/v1/"
        assert official.api_key != "tk_x"


def test_without_openai_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    tempo = client(lambda _: httpx.Response(200))
    with tempo, pytest.raises(tempo_client.ConfigurationError, match="pip install openai"):
        tempo.openai()


def test_the_public_names_are_exactly_what_is_importable() -> None:
    importable = {
        name
        for name, value in vars(tempo_client).items()
        if not name.startswith("_") and not isinstance(value, python_types.ModuleType)
    }
    assert importable == set(tempo_client.__all__)
    assert len(tempo_client.__all__) == len(importable)


def test_both_clients_have_the_same_methods() -> None:
    def signatures(kind: type) -> dict[str, str]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {n: str(inspect.signature(f)) for n, f in found if not n.startswith("_")}

    assert signatures(Tempo).keys() == signatures(tempo_client.AsyncTempo).keys()
    with client(lambda _: httpx.Response(200)) as tempo:
        other = tempo_client.AsyncTempo("http://tempo", api_key="tk_x")
        for name in ("files", "jobs", "adapters", "questions", "keys", "training"):
            blocking, asynchronous = getattr(tempo, name), getattr(other, name)
            assert signatures(type(blocking)) == signatures(type(asynchronous))


def test_an_operation_looks_like_a_method_and_blocks_or_awaits_as_its_client_does() -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(200, json=JOB))
    with client(lambda _: httpx.Response(200, json=JOB)) as tempo:
        assert tempo.jobs.retrieve("j").id == "j"
        assert next(iter(inspect.signature(tempo.jobs.wait).parameters)) == "job_id"
        assert (tempo.jobs.wait.__doc__ or "").startswith("Return the job when")
        with pytest.raises(TypeError, match="job_id"):
            tempo.jobs.retrieve()

    async def story() -> None:
        async with tempo_client.AsyncTempo("http://t", api_key="k", transport=answers) as other:
            waiting = other.jobs.retrieve("j")
            assert inspect.iscoroutine(waiting)
            assert (await waiting).id == "j"

    asyncio.run(story())


def test_httpx_alone_is_enough_to_import_the_sdk() -> None:
    script = """
import sys, importlib.abc
allowed = {"tempo_client", "httpx", "httpcore", "h11", "anyio", "sniffio", "certifi", "idna"}
allowed |= {"typing_extensions", *sys.stdlib_module_names}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not installed on this machine")

sys.meta_path.insert(0, Blocker())
import tempo_client
assert tempo_client.Tempo("http://x", api_key="tk_x").base_url == "http://x"
"""
    root = Path(tempo_client.__file__).parents[1]
    command = [sys.executable, "-W", "error::ImportWarning", "-c", script]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_variable_is_refused_with_what_was_meant() -> None:
    with pytest.raises(
        tempo_client.ConfigurationError, match="TEMPO_BASE_ULR; did you mean TEMPO_BASE_URL"
    ):
        find_base_url({"TEMPO_BASE_ULR": "http://there"})
    others = {"TEMPO_VLLM_API_KEY": "k", "TEMP_BASE_URL": "x", "TEMPO_BASE_URL": "http://there"}
    assert find_base_url(others) == "http://there"


@pytest.mark.parametrize(
    "given", ["http://there", "http://there/", "http://there/v1", "http://there/v1/"]
)
def test_the_address_of_v1_is_the_server_s_too(given: str) -> None:
    assert find_base_url({"TEMPO_BASE_URL": given}) == "http://there"


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(
        tempo_client.ConfigurationError, match="'there:8000' is no URL; write http://there:8000"
    ):
        find_base_url({"TEMPO_BASE_URL": "there:8000"})
