"""The gate judges designed versions by vLLM's own answers, at the temperature that users choose."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import designed
import pytest
from processes import clean_environment
from waiting import eventually

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.service, pytest.mark.vllm]

EVERY = designed.questions()
LABELED = EVERY[:330]
ASKED = EVERY[330:370]
TEMPERATURE = 0.8
BASE = designed.shares(0.30, 0.14)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Iterator[Any]:
    """A server of the designed base; users asked at 0.8, and 330 labels are uploaded."""
    folder = tmp_path_factory.mktemp("designed")
    base = designed.write_base(folder / "base", EVERY, BASE)
    (folder / "data").mkdir()
    with serve(base, folder / "data") as running:
        with running.admin() as tempo:
            tempo.files.create(
                {"question": q.text, "answer": q.right, "verifier": "exact"} for q in LABELED
            )
        for question in ASKED:
            running.client.chat.completions.create(
                model="tempo",
                messages=[{"role": "user", "content": question.text}],
                temperature=TEMPERATURE,
                max_tokens=4,
            )
        with running.worker():
            eventually(lambda: num_captured(running) == len(ASKED))
        yield running


def num_captured(server: Any) -> int:
    with server.sessions() as s:
        return ledger.pool.count(s)[0]


@pytest.fixture(scope="module")
def judge(server: Any) -> Iterator[Any]:
    """Tests candidates as a worker does."""
    from judges import Judge  # it imports modules that unit tests import in their own way

    with ExitStack() as stack:
        yield Judge(server, stack)


def test_an_equal_candidate_is_rejected_as_not_proven(judge: Any) -> None:
    outcome, report = judge.test(designed.shares(0.30, 0.20))
    assert outcome == "rejected"
    users = {"temperature": TEMPERATURE, "top_p": 1.0, "top_k": 0, "max_tokens": 4}
    assert report["decoding"] == users
    base, own = (report["accuracy"][role] for role in ("base", "candidate"))
    assert abs(own["users"] - base["users"]) < 0.1
    assert base["users"] > base["plain"] + 0.02  # a lower temperature sharpens
    assert "no gain" in report["reason"] or "not proven" in report["reason"]


def test_a_candidate_that_is_worse_greedily_alone_is_rejected_for_that(judge: Any) -> None:
    outcome, report = judge.test(designed.shares(0.42, 0.50))
    assert outcome == "rejected"
    accuracy = report["accuracy"]
    assert accuracy["candidate"]["users"] > accuracy["base"]["users"] + 0.05
    assert accuracy["candidate"]["plain"] > accuracy["base"]["plain"] + 0.05
    assert accuracy["candidate"]["greedy"] < accuracy["base"]["greedy"] - 0.5
    assert report["reason"].startswith("greedy answers lose")


def test_a_better_candidate_is_promoted_and_an_operator_reads_why(judge: Any, server: Any) -> None:
    outcome, report = judge.test(designed.shares(0.50, 0.10))
    assert outcome == "promoted", report["reason"]
    assert report["questions"] >= 60
    assert report["cost"]["responses"] > 0
    name = version_name(report["version"])
    tempo: Tempo
    with server.admin() as tempo:
        assert tempo.status().serving_adapter == name
    command = [sys.executable, "-m", "tempo_client.cli", "adapters", "show", name]
    variables = {"TEMPO_BASE_URL": server.base_url, "TEMPO_API_KEY": server.admin_key}
    environment = clean_environment() | variables
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    shown = run.stdout
    print(shown)
    assert "proven: +" in shown
    assert "standard errors" in shown
    assert "temperature 0.8" in shown


def test_what_served_is_the_rival_of_the_next_candidate(judge: Any, server: Any) -> None:
    with server.sessions() as s:
        assert ledger.versions.serving(s).version > 0
    outcome, report = judge.test(designed.shares(0.40, 0.12))
    assert outcome == "rejected"
    assert "over the serving version" in report["reason"]
    gains = {gain["rival"]: gain["mean"] for gain in report["looks"][-1]["gains"]}
    assert gains["the base"] > 0.05
    assert gains["the serving version"] < 0
