"""The users' key guards every route of the real vLLM's app, those of its development mode too.

So does the check of the priority.
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import clean_environment

from tempo_server.serving.endpoints import WRAPPED

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
FIRST = RIGHT | {"x-vllm-priority": "-1"}
SECONDS = 600.0  # most of it imports vLLM


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The rows that the script prints for WRONG, RIGHT, public metrics, and FIRST."""
    cases = [*([headers, False] for headers in (*WRONG, RIGHT)), [{}, True], [FIRST, False]]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(cases),
        env=clean_environment() | {"TEMPO_DATA_DIR": str(tmp_path_factory.mktemp("data"))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    printed: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return [row for row in printed if not row[2].startswith("/tempo/")]


@pytest.fixture(scope="module")
def answers(rows: list[Any]) -> list[Statuses]:
    """The statuses of vLLM's routes: one table for each of WRONG, RIGHT, and public metrics."""
    tables: list[Statuses] = [defaultdict(set) for _ in range(len(WRONG) + 3)]
    for number, method, path, status, _ in rows:
        tables[number][method, path].add(status)
    return tables[:-1]  # without FIRST


def without_401(table: Statuses) -> set[tuple[str, str]]:
    return {route for route, statuses in table.items() if statuses != {401}}


@pytest.mark.attack(
    "the front",
    "each route of vLLM's own app, development routes too, with no key or a wrong one",
    promise="401 on all but /health, /ping and /version",
)
def test_no_route_but_the_open_ones_answers_without_the_key(
    answers: list[Statuses], seen: Callable[[object], None]
) -> None:
    *wrong, _, _ = answers
    assert len(wrong) == len(WRONG)
    assert [without_401(table) for table in wrong] == [OPEN] * len(WRONG)
    seen(f"{len(answers[0])} routes with {len(wrong)} kinds of no key: {len(OPEN)} answered")


def test_every_route_answers_with_the_key(answers: list[Statuses]) -> None:
    *_, right, _ = answers
    assert [route for route, statuses in right.items() if 401 in statuses] == []


@pytest.mark.attack(
    "the front",
    "a negative priority in a header on each route of vLLM's app",
    promise="refused on every route",
)
def test_no_route_that_takes_a_body_lets_a_user_go_before_others(
    rows: list[Any], seen: Callable[[object], None]
) -> None:
    last = rows[-1][0]
    posts = [row for row in rows if row[:2] == [last, "POST"]]
    served = {path for _, _, path, _, is_refused in posts if not is_refused}
    # Those that the plugin wraps check it behind their own checks of the body, which is empty here.
    without_body = {path for method, path in OPEN if method == "POST"}
    assert served == WRAPPED.keys() | without_body
    refused = {path for _, _, path, _, is_refused in posts if is_refused}
    assert {"/invocations", "/inference/v1/generate"} <= refused
    seen(f"{len(refused)} routes refused it, {len(WRAPPED)} more check it themselves")


def test_the_routes_that_vllm_s_own_key_leaves_open_are_among_them(answers: list[Statuses]) -> None:
    left_open = {"/invocations", "/tokenize", "/metrics", "/collective_rpc", "/openapi.json"}
    assert left_open <= {path for _, path in answers[0]}
    assert ("WEBSOCKET", "/v1/realtime") in answers[0]
    assert len(answers[0]) > 50


def test_a_setting_opens_the_metrics_and_nothing_else(answers: list[Statuses]) -> None:
    assert without_401(answers[-1]) == OPEN | {("GET", "/metrics")}
