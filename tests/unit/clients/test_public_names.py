"""The surface of the SDK: names, types, two clients with the same methods, httpx alone."""

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from fake_api import client

import tempo_client
from tempo_client import AsyncTempo, Tempo, errors, types

ROOT = Path(__file__).parents[3]
JOB = {"id": "j", "status": "queued", "created_at": 1}


def answer_with_a_job(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=JOB)


def signatures(kind: type) -> dict[str, str]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {n: str(inspect.signature(f)) for n, f in functions if not n.startswith("_")}


@pytest.mark.parametrize("module", [errors, types], ids=["errors", "types"])
def test_every_error_and_every_resource_is_a_public_name(module: ModuleType) -> None:
    classes = inspect.getmembers(module, inspect.isclass)
    own = {name: kind for name, kind in classes if kind.__module__ == module.__name__}
    assert own
    assert own.items() <= vars(tempo_client).items()


def test_both_clients_have_the_same_methods() -> None:
    assert signatures(Tempo).keys() == signatures(AsyncTempo).keys()
    with client({}) as blocking:
        asynchronous = AsyncTempo("http://tempo", api_key="tk_x")
        for name in ("files", "labels", "jobs", "adapters", "questions", "keys", "training"):
            kinds = [type(getattr(tempo, name)) for tempo in (blocking, asynchronous)]
            assert signatures(kinds[0]) == signatures(kinds[1])


def test_a_type_checker_sees_results_on_a_tempo_and_coroutines_on_an_async_one(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
from collections.abc import Coroutine
from typing import Any, assert_type
from tempo_client import AsyncTempo, File, Job, Status, Tempo

def blocking(tempo: Tempo) -> None:
    assert_type(tempo.files.list(), list[File])
    assert_type(tempo.jobs.wait("j", timeout=1.0), Job)
    assert_type(tempo.recalibrate("labeled.jsonl"), Job)
    assert_type(tempo.status(), Status)
    with tempo as same:
        assert_type(same, Tempo)
    tempo.jobs.retrieve()  # type: ignore[call-arg]

async def asynchronous(tempo: AsyncTempo) -> None:
    _ = assert_type(tempo.files.list(), Coroutine[Any, Any, list[File]])
    assert_type(await tempo.files.list(), list[File])
    assert_type(await tempo.jobs.wait("j", timeout=1.0), Job)
    assert_type(await tempo.recalibrate("labeled.jsonl"), Job)
    assert_type(await tempo.status(), Status)
""")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_operation_looks_like_a_method_and_blocks_or_awaits_as_its_client_does() -> None:
    with client(answer_with_a_job) as tempo:
        assert tempo.jobs.retrieve("j").id == "j"
        assert next(iter(inspect.signature(tempo.jobs.wait).parameters)) == "job_id"
        assert (tempo.jobs.wait.__doc__ or "").startswith("Return the job when")
        with pytest.raises(TypeError, match="job_id"):
            tempo.jobs.retrieve()

    async def await_a_job() -> None:
        transport = httpx.MockTransport(answer_with_a_job)
        async with AsyncTempo("http://t", api_key="k", transport=transport) as tempo:
            coroutine = tempo.jobs.retrieve("j")
            assert inspect.iscoroutine(coroutine)
            assert (await coroutine).id == "j"

    asyncio.run(await_a_job())


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
    command = [sys.executable, "-W", "error::ImportWarning", "-c", script]
    result = subprocess.run(
        command, cwd=ROOT / "clients", capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
