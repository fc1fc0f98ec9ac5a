"""A real vLLM as OpenAI's clients see it: models, errors, OpenAPI, metrics, runtime routes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from adapters import write_lora
from ledgers import candidate, sqlite_ledger

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore

pytestmark = [pytest.mark.vllm, pytest.mark.service]

COUNTS = re.compile(
    r"^vllm:(?:request_success_total|prompt_tokens_total|generation_tokens_total|"
    r"time_to_first_token_seconds_count|e2e_request_latency_seconds_count|"
    r"prefix_cache_queries_total)\{.*\} (\S+)$",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def own_server(
    serve: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, make_adapter: Any
) -> Iterator[Any]:
    """A server with vLLM's runtime routes that finds a promoted version when it starts."""
    data_dir = tmp_path_factory.mktemp("data")
    manifest = make_adapter(AdapterStore(data_dir / "adapters"), "tempo-v1", seed=3, scale=1.0)
    with sqlite_ledger(data_dir) as sessions, sessions.begin() as s:
        s.add(candidate(1, bytes=manifest.bytes))
        ledger.published.add(s, manifest)
        ledger.versions.promote(s, 1)
    with serve(tiny_base, data_dir, env={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}) as server:
        yield server


def test_the_requests_of_a_start_do_not_count_in_the_metrics(own_server: Any) -> None:
    def counts() -> list[float]:
        return [float(count) for count in COUNTS.findall(own_server.http.get("/metrics").text)]

    before = counts()
    assert len(before) >= 5
    assert set(before) == {0.0}
    own_server.client.chat.completions.create(
        model="tempo", messages=[{"role": "user", "content": "1 + 1"}], max_tokens=2
    )
    assert any(counts())


def test_models_are_listed_after_the_base_with_it_as_their_parent(own_server: Any) -> None:
    cards = [model.to_dict() for model in own_server.client.models.list()]
    assert [(card["id"], card["parent"]) for card in cards] == [
        ("tiny", None),
        ("tempo", "tiny"),
        ("tempo-v0", "tiny"),
        ("tempo-v1", "tiny"),
    ]
    for card in cards:
        assert own_server.client.models.retrieve(card["id"]).to_dict()["parent"] == card["parent"]
    with pytest.raises(openai.NotFoundError) as raised:
        own_server.client.models.retrieve("tempo-v9")
    assert raised.value.code == "model_not_found"


def test_a_job_may_name_the_base_as_vllm_serves_it(own_server: Any) -> None:
    url = "/tempo/v1/fine_tuning/jobs"
    headers = {"Authorization": f"Bearer {own_server.admin_key}"}
    reply = own_server.http.post(url, json={"model": "else"}, headers=headers)
    assert "'tempo', 'tiny'" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/tempo/v1/nothing", 404),
        ("PUT", "/tempo/v1/status", 405),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models/tempo", 405),
        ("POST", "/v1/nothing", 404),
    ],
)
def test_unknown_paths_and_methods_get_openai_s_form_of_error(
    own_server: Any, method: str, path: str, status: int
) -> None:
    reply = own_server.http.request(method, path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == {404: "not_found", 405: "method_not_allowed"}[status]


def test_our_schemas_leave_the_names_of_vllm_s_alone(own_server: Any) -> None:
    document = own_server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    ours = {name.removeprefix("Page_") for name in schemas if "Tempo" in name}
    assert len(ours) > 20
    assert [name for name in ours if "__" in name or "-" in name] == []
    # Both vLLM and we have a schema File: neither gets a longer name for it.
    assert [name for name in schemas if "tempo_server" in name] == []


def test_the_runtime_routes_load_an_operator_s_adapter_and_none_under_our_names(
    own_server: Any, tiny_base: Path, tmp_path: Path
) -> None:
    write_lora(tmp_path, tiny_base, scale=1.0, seed=9, rank=8)
    for name in ("tempo", "tempo-v0", "tempo-v1", "tempo-v7"):
        body = {"lora_name": name, "lora_path": str(tmp_path), "load_inplace": True}
        for route in ("load", "unload"):
            reply = own_server.http.post(f"/v1/{route}_lora_adapter", json=body)
            assert reply.status_code == 400
            assert f"'{name}' is a name of vllm-tempo" in reply.json()["error"]["message"]
    body = {"lora_name": "own", "lora_path": str(tmp_path)}
    assert own_server.http.post("/v1/load_lora_adapter", json=body).status_code == 200
    request = {"messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": 2}
    for model, answerer in (("own", "own"), ("tempo", "tempo-v1")):
        reply = own_server.http.post("/v1/chat/completions", json=request | {"model": model})
        assert reply.json()["model"] == answerer
    assert own_server.http.post("/v1/unload_lora_adapter", json=body).status_code == 200
