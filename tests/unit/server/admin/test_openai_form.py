"""Errors, parameters, lists and the OpenAPI document as OpenAI's clients expect them."""

from typing import Any

import pytest
from asgi import send
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from tempo_server.admin import route

JOBS = "/tempo/v1/fine_tuning/jobs"
FILES = "/tempo/v1/files"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/tempo/v1/nothing", 404, "not_found"),
        ("GET", "/tempo/nothing", 404, "not_found"),
        ("POST", "/v1/embedding", 404, "not_found"),
        ("PUT", "/tempo/v1/status", 405, "method_not_allowed"),
        ("PATCH", FILES, 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("POST", "/docs", 405, "method_not_allowed"),
        ("DELETE", "/openapi.json", 405, "method_not_allowed"),
    ],
)
def test_an_unknown_path_and_a_wrong_method_get_openai_s_form_of_error(
    admin: Any, method: str, path: str, status: int, code: str
) -> None:
    reply = admin(method, path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, None)
    assert f"{path}" in error["message"]
    assert reply.headers["x-request-id"].startswith("req_")


def test_a_wrong_method_names_all_methods_of_the_path(admin: Any) -> None:
    reply = admin("PATCH", FILES)
    assert reply.headers["allow"] == "GET, POST"
    assert "send GET, POST" in reply.json()["error"]["message"]


@pytest.mark.parametrize("status", [404, 415])
def test_an_error_of_a_route_itself_keeps_its_own_answer(status: int) -> None:
    app = FastAPI()
    route.install(app)

    @app.get("/v1/thing")
    def fail() -> None:
        raise HTTPException(status, "the thing is gone")

    reply = send(app, "GET", "/v1/thing")
    assert (reply.status_code, reply.json()) == (status, {"detail": "the thing is gone"})


@pytest.mark.parametrize(
    ("path", "limit", "code"),
    [
        (JOBS, 101, "integer_above_max_value"),
        (JOBS, 0, "integer_below_min_value"),
        (f"{JOBS}/j/events", 101, "integer_above_max_value"),
        (f"{JOBS}/j/checkpoints", 101, "integer_above_max_value"),
        (FILES, 10_001, "integer_above_max_value"),
        (JOBS, "x", "invalid_value"),
    ],
)
def test_a_limit_beyond_openai_s_is_refused_as_openai_refuses_it(
    admin: Any, path: str, limit: Any, code: str
) -> None:
    reply = admin("GET", path, params={"limit": limit})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, "limit")
    assert str(limit) in error["message"]


def test_files_are_listed_up_to_ten_thousand_at_once_by_order_and_purpose(
    admin: Any, labeled: bytes
) -> None:
    ids = [admin.upload(labeled + b"\n" * n).json()["id"] for n in (0, 1)]

    def listed(**params: Any) -> list[str]:
        return [file["id"] for file in admin("GET", FILES, params=params).json()["data"]]

    assert listed(limit=10_000) == ids[::-1]
    assert listed(order="asc") == ids
    assert listed(purpose="fine-tune") == ids[::-1]
    assert listed(purpose="batch") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{JOBS}?metadata=x"),
        ("GET", "/tempo/v1/status?verbose=1"),
        ("POST", "/tempo/v1/training/pause?reason=x"),
        ("DELETE", "/tempo/v1/questions?tenant=0123456789abcdef&user=x"),
    ],
)
def test_a_query_parameter_that_nobody_honours_is_refused(
    admin: Any, method: str, path: str
) -> None:
    reply = admin(method, path)
    name = path.replace("&", "?").split("?")[-1].split("=")[0]
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
    assert admin("GET", "/tempo/v1/status").json()["paused"] is False


def test_health_checks_may_have_any_parameter(admin: Any) -> None:
    for path in ("/tempo/healthz", "/tempo/readyz"):
        assert admin("GET", f"{path}?time=1").status_code == 200


def test_a_form_field_that_nobody_honours_is_refused(admin: Any, labeled: bytes) -> None:
    data = {"purpose": "fine-tune", "expires_after[seconds]": "3600"}
    reply = admin("POST", FILES, files={"file": ("x.jsonl", labeled)}, data=data)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "expires_after[seconds]")
    assert admin("GET", FILES).json()["data"] == []


def test_the_openapi_document_has_a_key_errors_and_names_of_its_own(admin: Any) -> None:
    document = admin.app.openapi()
    components = document["components"]
    assert components["securitySchemes"] == {"TempoKey": {"type": "http", "scheme": "bearer"}}
    # vLLM's schemas are in the same document: a common prefix keeps the names apart.
    names = {name.removeprefix("Page_") for name in components["schemas"]}
    assert {name for name in names if not name.startswith("Tempo")} == set()
    # FastAPI gives a schema two names if its form as a request differs from its form as an answer.
    assert {name for name in names if "-" in name} == set()
    operations = [
        (path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    for path, operation in operations:
        if path.startswith("/tempo/v1/"):
            assert operation["responses"].keys() >= {"200", "400", "401", "403", "default"}, path
            assert operation["security"] == [{"TempoKey": []}], path
