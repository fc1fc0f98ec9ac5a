"""The users' key guards every route of the real vLLM's app, those of its development mode too."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from processes import clean_environment

Statuses = dict[tuple[str, str], set[int]]

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
SECONDS = 600.0  # most of it imports vLLM


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Statuses]:
    """The statuses of vLLM's routes: one table for each of WRONG, RIGHT, and public metrics."""
    cases = [*([headers, False] for headers in (*WRONG, RIGHT)), [{}, True]]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(cases),
        env=clean_environment() | {"TEMPO_DATA_DIR": str(tmp_path_factory.mktemp("data"))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    tables: list[Statuses] = [defaultdict(set) for _ in cases]
    for number, method, path, status in json.loads(done.stdout.splitlines()[-1]):
        if not path.startswith("/tempo/"):
            tables[number][method, path].add(status)
    return tables


def without_401(table: Statuses) -> set[tuple[str, str]]:
    return {route for route, statuses in table.items() if statuses != {401}}


def test_no_route_but_the_open_ones_answers_without_the_key(answers: list[Statuses]) -> None:
    *wrong, _, _ = answers
    assert len(wrong) == len(WRONG)
    assert [without_401(table) for table in wrong] == [OPEN] * len(WRONG)


def test_every_route_answers_with_the_key(answers: list[Statuses]) -> None:
    *_, right, _ = answers
    assert [route for route, statuses in right.items() if 401 in statuses] == []


def test_the_routes_that_vllm_s_own_key_leaves_open_are_among_them(answers: list[Statuses]) -> None:
    left_open = {"/invocations", "/tokenize", "/metrics", "/collective_rpc", "/openapi.json"}
    assert left_open <= {path for _, path in answers[0]}
    assert ("WEBSOCKET", "/v1/realtime") in answers[0]
    assert len(answers[0]) > 50


def test_a_setting_opens_the_metrics_and_nothing_else(answers: list[Statuses]) -> None:
    assert without_401(answers[-1]) == OPEN | {("GET", "/metrics")}
