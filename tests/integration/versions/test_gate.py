"""The gate judges designed versions by vLLM's own answers, at the temperature that users choose."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import designed
import pytest
from ledgers import candidate, hold_lease
from processes import clean_environment
from waiting import eventually

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Job
from tempo_trainer.sampling import verifiers
from tempo_trainer.sampling.deck import Decks
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.sampling.server import served_model
from tempo_trainer.sampling.verifier_pool import VerifierPool
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.answers import AnswerBook, draw_answers
from tempo_trainer.versions.comparison import compare
from tempo_trainer.versions.promotion import record_decision
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = [pytest.mark.service, pytest.mark.vllm]

EVERY = designed.questions()
LABELED = EVERY[:330]
ASKED = EVERY[330:370]
TEMPERATURE = 0.8
BASE = designed.shares(0.30, 0.14)
SUMMARY = {"iterations": 1, "critic_within_auroc": 0.8}


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


class Judge:
    """The parts of a worker that test a candidate."""

    def __init__(self, server: Any, stack: ExitStack) -> None:
        self.server = server
        self.settings = WorkerSettings(
            base_url=server.base_url, data_dir=server.data_dir, max_response_tokens=4
        )
        _, decoding = served_model(self.settings, server.admin_key)
        epoch = hold_lease(server.sessions, "judge")
        self.sessions = LeasedSessions(server.sessions, lambda: epoch)
        sampler = Sampler(self.settings, key=server.admin_key)
        pool = stack.enter_context(VerifierPool(verifiers.names()))
        self.responses = ResponseSource(
            self.settings, self.sessions, Decks(), sampler, pool, decoding
        )
        stack.callback(sampler.close)
        self.book = AnswerBook(partial(draw_answers, self.responses))

    def publish(self, wanted: Mapping[str, float]) -> int:
        """Publish a version with these shares and return its number."""
        with self.server.sessions.begin() as s:
            version = ledger.versions.next_version(s)
            serving = ledger.versions.serving(s).version
            manifest = self.server.store.publish(
                version_name(version),
                lambda folder: designed.write_adapter(folder, self.server.model, EVERY, wanted),
                base=str(self.server.model),
            )
            s.add(candidate(version, parent=serving, bytes=manifest.bytes))
        return version

    def test(self, wanted: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
        """Publish a version with these shares and test it; return outcome and report."""
        version = self.publish(wanted)
        with self.server.sessions.begin() as s:
            job = ledger.jobs.create(s, f"job{version}", "round", {})
            job.status = "running"
            job.serving_sequence = ledger.versions.serving(s).sequence
        with self.server.sessions() as s:
            row: Job = ledger.jobs.get(s, job.id)
        test = compare(
            self.settings, self.sessions, self.responses, self.book, version, round_tokens=0
        )
        result = record_decision(self.sessions, row, version, test, checkpoint="", summary=SUMMARY)
        with self.server.sessions.begin() as s:
            ledger.jobs.finish(s, job.id, "succeeded", result=result)
        return result.report["decision"], result.report["gate"] | {"version": version}


@pytest.fixture(scope="module")
def judge(server: Any) -> Iterator[Judge]:
    """Tests candidates as a worker does."""
    with ExitStack() as stack:
        yield Judge(server, stack)


def test_an_equal_candidate_is_rejected_as_not_proven(judge: Judge) -> None:
    outcome, report = judge.test(designed.shares(0.30, 0.20))
    assert outcome == "rejected"
    users = {"temperature": TEMPERATURE, "top_p": 1.0, "top_k": 0, "max_tokens": 4}
    assert report["decoding"] == users
    base, own = (report["accuracy"][role] for role in ("base", "candidate"))
    assert abs(own["users"] - base["users"]) < 0.1
    assert base["users"] > base["plain"] + 0.02  # a lower temperature sharpens
    assert "no gain" in report["reason"] or "not proven" in report["reason"]


def test_a_candidate_that_is_worse_greedily_alone_is_rejected_for_that(judge: Judge) -> None:
    outcome, report = judge.test(designed.shares(0.42, 0.50))
    assert outcome == "rejected"
    accuracy = report["accuracy"]
    assert accuracy["candidate"]["users"] > accuracy["base"]["users"] + 0.05
    assert accuracy["candidate"]["plain"] > accuracy["base"]["plain"] + 0.05
    assert accuracy["candidate"]["greedy"] < accuracy["base"]["greedy"] - 0.5
    assert report["reason"].startswith("greedy answers lose")


def test_a_better_candidate_is_promoted_and_an_operator_reads_why(
    judge: Judge, server: Any
) -> None:
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


def test_what_served_is_the_rival_of_the_next_candidate(judge: Judge, server: Any) -> None:
    with server.sessions() as s:
        assert ledger.versions.serving(s).version > 0
    outcome, report = judge.test(designed.shares(0.40, 0.12))
    assert outcome == "rejected"
    assert "over the serving version" in report["reason"]
    gains = {gain["rival"]: gain["mean"] for gain in report["looks"][-1]["gains"]}
    assert gains["the base"] > 0.05
    assert gains["the serving version"] < 0
