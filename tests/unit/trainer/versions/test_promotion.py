"""A decision is committed with its promotion; the servers then follow, or an event names them."""

import time
from pathlib import Path
from typing import Any

import pytest
from gates import DIGEST, PROVEN, UNPROVEN, WORSE, gate_result
from learners import Parts
from ledgers import candidate
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.errors import GateRefusedError, LeaseLostError
from tempo_storage.ledger.models import JobResult
from tempo_trainer.errors import CancelledError
from tempo_trainer.jobs.running import RunningJob
from tempo_trainer.versions.promotion import record_decision, record_refusal, wait_for_servers

GAP = "too few are held out; upload more"
SUMMARY = {"iterations": 3, "critic_within_auroc": 0.8}


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Version 1 serves, version 2 is a candidate."""
    with sessions.begin() as s:
        s.add_all([candidate(1, checkpoint="c1"), candidate(2, parent=1, checkpoint="c2")])
        s.flush()
        ledger.versions.promote(s, 1)
    return Parts(sessions, tmp_path)


def record(parts: Parts, job: RunningJob, share: float, **changed: Any) -> JobResult:
    test = gate_result(share, **changed)
    return record_decision(parts.leased, job.row, 2, test, checkpoint="c2", summary=SUMMARY)


def status(parts: Parts, version: int) -> str:
    with parts.sessions() as s:
        return ledger.versions.adapter(s, version).status


def test_a_candidate_that_passes_is_promoted_and_the_next_round_goes_on_from_it(
    parts: Parts,
) -> None:
    job = parts.job("job_1")
    result = record(parts, job, PROVEN)
    assert (result.report["decision"], result.report["iterations"]) == ("promoted", 3)
    assert (result.checkpoint, result.sequence, result.auroc) == ("c2", 2, 0.8)
    with parts.sessions() as s:
        assert ledger.jobs.get(s, "job_1").end == result
        assert ledger.versions.serving(s).version == 2
        assert ledger.versions.adapter(s, 2).report["promote"] is True


@pytest.mark.parametrize(("share", "start"), [(UNPROVEN, "c2"), (WORSE, "c1")])
def test_a_rejected_candidate_is_a_start_unless_it_is_certainly_worse(
    parts: Parts, share: float, start: str
) -> None:
    result = record(parts, parts.job("job_1"), share)
    assert (result.report["decision"], result.checkpoint) == ("rejected", start)
    assert "tempo-v2 rejected: no gain: " in result.report["summary"]
    assert status(parts, 2) == "rejected"


def test_without_auto_promote_a_candidate_waits_for_an_operator(parts: Parts) -> None:
    result = record(parts, parts.job("job_1", auto_promote=False), PROVEN)
    assert result.report["decision"] == "candidate"
    assert (status(parts, 1), status(parts, 2)) == ("serving", "candidate")


def num_tests(parts: Parts) -> int:
    with parts.sessions() as s:
        return ledger.gate_tests.count(s, DIGEST)


@pytest.mark.parametrize("share", [PROVEN, UNPROVEN])
def test_a_test_is_counted_whatever_it_decides(parts: Parts, share: float) -> None:
    result = record(parts, parts.job("job_1"), share)
    assert result.report["gate"]["tests"] == num_tests(parts) == 1


def test_a_version_that_an_operator_wants_to_judge_is_no_test(parts: Parts) -> None:
    record(parts, parts.job("job_1", auto_promote=False), UNPROVEN)
    assert num_tests(parts) == 0


def test_with_too_few_labels_a_version_stays_a_candidate_that_is_promoted_without_force(
    parts: Parts,
) -> None:
    result = record(parts, parts.job("job_1"), PROVEN, gaps=[GAP])
    assert result.report["decision"] == "candidate"
    assert GAP in result.report["summary"]
    assert result.report["gate"]["tests"] is None
    assert (status(parts, 1), status(parts, 2)) == ("serving", "candidate")
    assert num_tests(parts) == 0
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 2)
    assert status(parts, 2) == "serving"


def test_with_too_few_labels_a_version_that_is_certainly_worse_is_rejected(parts: Parts) -> None:
    result = record(parts, parts.job("job_1"), WORSE, gaps=[GAP])
    assert (result.report["decision"], result.checkpoint) == ("rejected", "c1")
    with parts.sessions.begin() as s, pytest.raises(GateRefusedError):
        ledger.versions.promote(s, 2)


def test_without_auto_promote_a_rejected_version_is_rejected_all_the_same(parts: Parts) -> None:
    result = record(parts, parts.job("job_1", auto_promote=False), UNPROVEN)
    assert (result.report["decision"], status(parts, 2)) == ("rejected", "rejected")


def test_a_promoted_version_keeps_its_report_and_the_event_has_it(parts: Parts) -> None:
    record(parts, parts.job("job_1"), PROVEN)
    with parts.sessions() as s:
        report = ledger.versions.adapter(s, 2).report
        [event] = [e for e in ledger.events.find(s) if e.type == "gate.promoted"]
    assert report["looks"][0]["gains"][0]["rival"] == "the serving version"
    assert event.data == report
    assert event.message == f"tempo-v2 promoted: {report['reason']}"


def test_a_job_that_was_cancelled_while_the_gate_asked_is_not_promoted(parts: Parts) -> None:
    job = parts.job("job_1")
    with parts.sessions.begin() as s:
        ledger.jobs.finish(s, "job_1", "cancelled")
    with pytest.raises(CancelledError, match="job job_1 was cancelled"):
        record(parts, job, PROVEN)
    with parts.sessions() as s:
        assert ledger.versions.serving(s).version == 1
        assert ledger.jobs.get(s, "job_1").result == {}
    assert status(parts, 2) == "candidate"


def test_a_pause_while_the_gate_asks_does_not_undo_the_round(parts: Parts) -> None:
    job = parts.job("job_1")
    with parts.sessions.begin() as s:
        ledger.training.set_paused(s, True)
    assert record(parts, job, PROVEN).report["decision"] == "promoted"


def test_a_round_whose_start_was_rolled_back_is_not_promoted(parts: Parts) -> None:
    job = parts.job("job_1")
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, BASE)
    with pytest.raises(CancelledError, match="the serving version changed to tempo-v0 since"):
        record(parts, job, PROVEN)
    with parts.sessions() as s:
        assert ledger.versions.serving(s).version == BASE
        assert ledger.jobs.get(s, "job_1").result == {}


def test_a_worker_without_the_lease_promotes_nothing(parts: Parts) -> None:
    job = parts.job("job_1")
    parts.epoch = 7
    with pytest.raises(LeaseLostError):
        record(parts, job, PROVEN)
    assert status(parts, 2) == "candidate"


def test_an_event_says_at_once_that_every_server_refuses_a_promotion(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        sequence = ledger.versions.promote(s, 2).sequence
        for process in "ab":
            ledger.versions.acknowledge(
                s, process, version=1, sequence=sequence, error="no LoRA here"
            )
    started = time.monotonic()
    wait_for_servers(parts.leased, "job_1", 2)
    assert time.monotonic() - started < 2
    with parts.sessions() as s:
        [event] = [event for event in ledger.events.find(s) if event.type == "adapter.behind"]
    assert event.message == "tempo-v2 is promoted, but not everywhere: no LoRA here"


def test_a_promotion_is_complete_when_every_server_answers_with_it(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        sequence = ledger.versions.promote(s, 2).sequence
        ledger.versions.acknowledge(s, "a", version=2, sequence=sequence)
    wait_for_servers(parts.leased, "job_1", 2)
    with parts.sessions() as s:
        assert "adapter.behind" not in [event.type for event in ledger.events.find(s)]


def test_a_promoted_version_that_a_server_finds_corrupt_makes_the_round_refused(
    parts: Parts,
) -> None:
    result = record(parts, parts.job("job_1"), PROVEN)
    assert record_refusal(parts.leased, "job_1", 2, result) == result  # nobody refused it yet
    with parts.sessions.begin() as s:
        ledger.versions.mark_corrupt(s, 2, "vLLM does not serve what was trained")
    wait_for_servers(parts.leased, "job_1", 2)
    refused = record_refusal(parts.leased, "job_1", 2, result)
    assert (refused.report["decision"], refused.sequence) == ("refused", 3)
    assert refused.report["summary"] == "vLLM does not serve what was trained"
    assert refused.checkpoint == "c1"
    with parts.sessions() as s:
        assert ledger.jobs.get(s, "job_1").end == refused
        assert ledger.versions.serving(s).version == 1
