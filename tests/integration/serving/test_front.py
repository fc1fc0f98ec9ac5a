"""The users' key guards every route of the real vLLM's app, those of its development mode too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import clean_environment

SCRIPT = Path(__file__).parents[2] / "support" / "front_app.py"
KEY = "the users' key"
OPEN = {("GET", "/health"), ("GET", "/version"), ("GET", "/ping"), ("POST", "/ping")}
WRONG: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": "Bearer "},
    {"authorization": f"Basic {KEY}"},
    {"authorization": KEY},
    {"x-api-key": KEY},
    {"x-tempo-key": KEY},
]
RIGHT = {"authorization": f"bearer {KEY}"}
SECONDS = 300.0


def statuses(
    *headers: dict[str, str], data_dir: Path, public_metrics: bool = False
) -> dict[tuple[str, str], list[int]]:
    """Return the statuses of each route of vLLM, one for each set of headers."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), KEY, str(int(public_metrics))],
        input=json.dumps(headers),
        env=clean_environment() | {"TEMPO_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    results: dict[tuple[str, str], list[int]] = {}
    rows: list[Any] = json.loads(done.stdout.splitlines()[-1])
    for method, path, status in rows:
        if not path.startswith("/tempo/"):
            results.setdefault((method, path), []).append(status)
    return results


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[int]]:
    return statuses(*WRONG, RIGHT, data_dir=tmp_path_factory.mktemp("data"))


def test_no_route_but_the_open_ones_answers_without_the_key(
    answers: dict[tuple[str, str], list[int]],
) -> None:
    guarded = {route for route, found in answers.items() if 401 in found}
    assert len(guarded) > 50
    assert answers.keys() - guarded == OPEN
    for found in (answers[route] for route in guarded):
        times = len(found) // (len(WRONG) + 1)  # an app may have two routes of one path
        assert found[: len(WRONG) * times] == [401] * len(WRONG) * times
        assert 401 not in found[len(WRONG) * times :]


def test_the_routes_that_vllm_s_own_key_leaves_open_are_among_them(
    answers: dict[tuple[str, str], list[int]],
) -> None:
    left_open = {"/invocations", "/tokenize", "/metrics", "/collective_rpc", "/openapi.json"}
    assert left_open <= {path for _, path in answers}
    assert ("WEBSOCKET", "/v1/realtime") in answers


def test_a_setting_opens_the_metrics_and_nothing_else(tmp_path: Path) -> None:
    found = statuses({}, data_dir=tmp_path, public_metrics=True)
    opened = {route for route, codes in found.items() if set(codes) != {401}}
    assert opened == OPEN | {("GET", "/metrics")}
