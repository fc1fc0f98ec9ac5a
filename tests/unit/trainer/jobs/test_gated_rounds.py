"""A round ends at the gate: it is tested, waits for a later test, or goes to an operator."""

from pathlib import Path
from typing import Any

import pytest
from learners import Parts
from ledgers import captured, held_out, labeled_file, labeled_set
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.decoding import GREEDY
from tempo_storage.ledger.models import JobResult

SETTINGS = {
    "minimum_advantage_std": 0,
    "warm_up_steps": 1,
    "iterations_per_round": 1,
    "gate_samples": 8,
}
BETTER = 0.95  # shares of right answers; that of the base is a half
EQUAL = 0.5


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """The base serves; each new version answers as the base does."""
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all(labeled_set(train=32, held_out=32))
        ledger.pool.add(s, [captured("a", "900 + 900")])
    return Parts(sessions, tmp_path, **SETTINGS)


def play(parts: Parts, name: str, **options: Any) -> JobResult:
    """Make a round and end it."""
    result = parts.rounds.run(parts.job(name, **options))
    with parts.sessions.begin() as s:
        ledger.jobs.finish(s, name, "succeeded", result=result)
    return result


def decisions(parts: Parts, names: str, **options: Any) -> list[str]:
    return [play(parts, name, **options).report["decision"] for name in names]


def events(parts: Parts, type: str) -> list[Any]:
    with parts.sessions() as s:
        return [event for event in ledger.events.find(s, limit=1000) if event.type == type]


def test_a_promoted_round_reports_the_answers_and_what_they_cost(parts: Parts) -> None:
    parts.responses.skill = {"tempo-v1": BETTER}
    result = play(parts, "a")
    report = result.report["gate"]
    assert (result.report["decision"], result.report["adapter"]) == ("promoted", "tempo-v1")
    assert report["accuracy"]["candidate"]["users"] > report["accuracy"]["base"]["users"]
    with parts.sessions() as s:
        sampled = sum(row.metrics["rollouts/tokens"] for row in ledger.jobs.iterations(s, "a"))
        assert ledger.versions.adapter(s, 1).report == report
    assert report["cost"]["round_tokens"] == sampled > 0
    assert report["cost"]["tokens"] == 2 * 32 * (1 + 8) * 3


def test_a_refused_round_says_why_and_the_policy_goes_on(parts: Parts) -> None:
    result = play(parts, "a")
    assert (result.report["decision"], result.checkpoint) == ("rejected", "a-1")
    assert result.report["summary"] == "tempo-v1 rejected: no gain: +0.0 points over the base"
    assert [event.message for event in events(parts, "gate.rejected")] == [result.report["summary"]]


def test_after_refusals_rounds_go_on_without_a_test_until_one_is_due(parts: Parts) -> None:
    tested = [d != "unchanged" for d in decisions(parts, "abcdefgh")]
    assert tested == [True, True, False, True, False, False, False, True]
    assert len(events(parts, "gate.waits")) == 4
    with parts.sessions() as s:
        assert [row.version for row in ledger.versions.adapters(s)] == [4, 3, 2, 1]
        assert ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 4


def test_a_round_that_waits_asks_no_held_out_question_of_a_version_and_says_so(
    parts: Parts,
) -> None:
    decisions(parts, "ab")
    parts.responses.requests.clear()
    result = play(parts, "c")
    assert parts.responses.requests == []
    assert result.report["summary"].startswith("the gate refused 2 tests in a row and waits")
    assert result.checkpoint == "c-1"  # the next round goes on from here
    [event] = events(parts, "gate.waits")
    assert (event.level, event.job_id) == ("warning", "c")
    assert event.message == result.report["summary"]


def test_small_gains_add_up_while_the_gate_waits(parts: Parts) -> None:
    decisions(parts, "abc")
    parts.responses.skill = {"tempo-v3": BETTER}
    assert decisions(parts, "d") == ["promoted"]
    assert decisions(parts, "e") == ["rejected"]  # and nothing waits any more


def test_a_round_for_an_operator_is_judged_however_many_tests_were_refused(parts: Parts) -> None:
    decisions(parts, "ab")
    assert decisions(parts, "cde", auto_promote=False) == ["rejected"] * 3
    parts.responses.skill = {"tempo-v6": BETTER}
    assert decisions(parts, "f", auto_promote=False) == ["candidate"]
    with parts.sessions() as s:
        assert ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 2


def test_the_base_answers_once_for_many_candidates(parts: Parts) -> None:
    decisions(parts, "ab")
    assert parts.responses.requests.count(("tempo-v0", 1, GREEDY)) == 1
    assert parts.responses.requests.count(("tempo-v2", 1, GREEDY)) == 1


def test_labels_that_arrive_while_the_gate_asks_begin_a_new_count(parts: Parts) -> None:
    def upload() -> None:
        with parts.sessions.begin() as s:
            if parts.responses.requests and len(ledger.labeled.examples(s, "held_out")) == 32:
                s.add(held_out("a new one", reference=["new"]))

    parts.responses.meanwhile = upload
    assert play(parts, "a").report["gate"]["questions"] == 32
    with parts.sessions() as s:
        assert (
            ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 0
        )  # the test was made on the old questions
    play(parts, "b")
    with parts.sessions() as s:
        assert ledger.gate_tests.count(s, ledger.labeled.held_out_digest(s)) == 1


@pytest.mark.parametrize("auto_promote", [True, False])
def test_a_round_whose_held_out_questions_are_all_too_long_makes_no_test_and_names_the_setting(
    parts: Parts, auto_promote: bool
) -> None:
    with parts.sessions() as s:
        parts.responses.too_long = [e.content_hash for e in ledger.labeled.examples(s, "held_out")]
    result = play(parts, "a", auto_promote=auto_promote)
    assert result.report["decision"] == "unchanged"
    assert result.report["summary"] == (
        "none of 32 held-out questions leaves room for a response; lower TEMPO_MAX_RESPONSE_TOKENS"
        f" ({parts.settings.max_response_tokens}), or upload shorter questions"
    )
    assert parts.responses.requests == []


def test_too_few_labels_leave_every_round_s_version_to_an_operator(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        for example in ledger.labeled.examples(s, "held_out")[10:]:
            s.delete(example)
    parts.responses.skill = {"tempo-v1": BETTER, "tempo-v2": BETTER}
    assert decisions(parts, "ab") == ["candidate", "candidate"]
    assert "upload 22 more labeled questions" in events(parts, "gate.candidate")[0].message
    with parts.sessions.begin() as s:
        assert ledger.versions.promote(s, 2).version == 2  # without force
