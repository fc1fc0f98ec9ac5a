"""The house stays small, and the SDK stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for root in ("server", "trainer", "storage", "clients")
    for path in (ROOT / root).rglob("*.py")
)
LONGEST_FUNCTION = 60
LONGEST_MODULE = 300
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "Makefile", "LICENSE"),
    *("server", "trainer", "storage", "clients", "tests", "docker"),
}


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    return [
        (node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE
    assert [f for f in functions(path) if f[1] > LONGEST_FUNCTION] == []


def test_the_algorithm_fits_on_a_few_screens() -> None:
    trainer = ROOT / "trainer" / "tempo_trainer"
    files = [trainer / "objective.py", trainer / "em.py"]
    assert sum(len(f.read_text().splitlines()) for f in files) <= 300
    assert dict(functions(trainer / "em.py"))["em_step"] <= 25


def test_the_top_level_is_a_closed_list() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} <= TOP_LEVEL


def test_importing_the_sdk_loads_httpx_only() -> None:
    # Not rich: httpx itself imports it where it is installed.
    heavy = ["torch", "vllm", "sqlalchemy", "redis", "rq", "fastapi", "pydantic", "typer"]
    script = f"import sys, tempo_client; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_only_settings_read_the_environment() -> None:
    readers = [p for p in SOURCES if "os.environ" in p.read_text() or "getenv" in p.read_text()]
    allowed = {"settings.py", "launcher.py", "_client.py", "_credentials.py", "processes.py"}
    assert {p.name for p in readers} <= allowed
