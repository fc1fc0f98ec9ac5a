"""After refusals the gate waits, starts the policy again, and at last makes no test at all."""

from pathlib import Path
from typing import Any

import pytest
from gates import DIGEST, PROVEN, UNPROVEN, WORSE, gate_result
from learners import Parts
from ledgers import candidate, labeled_file, labeled_set
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import JobResult
from tempo_trainer.versions.gate import MAX_TESTS
from tempo_trainer.versions.promotion import reason_to_wait, record_decision

SUMMARY = {"critic_within_auroc": 0.8}


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Version 1 serves."""
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all(labeled_set(train=32, held_out=32))
        s.add(candidate(1, checkpoint="c1"))
        s.flush()
        ledger.versions.promote(s, 1)
    return Parts(sessions, tmp_path)


def decide(parts: Parts, number: int, share: float = UNPROVEN, **job: Any) -> JobResult:
    """Make a round whose version has this number; record the decision, and end the round."""
    running = parts.job(f"j{number}", **job)
    with parts.sessions.begin() as s:
        s.add(candidate(number, parent=1, checkpoint=f"c{number}"))
    result = record_decision(
        parts.leased,
        running.row,
        number,
        gate_result(share),
        checkpoint=f"c{number}",
        summary=SUMMARY,
    )
    end(parts, f"j{number}", result)
    return result


def end(parts: Parts, job: str, result: JobResult | None = None) -> None:
    with parts.sessions.begin() as s:
        ledger.jobs.finish(s, job, "succeeded", result=result)


def refuse(parts: Parts, count: int) -> None:
    """Record so many refusals, as rounds before this one would have left them."""
    with parts.sessions.begin() as s:
        for number in range(count):
            ledger.gate_tests.record(s, f"old{number}", 1, promoted=False, held_out=DIGEST)


def reason(parts: Parts, held_out: str = DIGEST) -> str:
    with parts.sessions() as s:
        return reason_to_wait(s, held_out)


def rounds_until_the_next_test(parts: Parts) -> int:
    """Make rounds without a test until a test is due; return how many rounds that takes."""
    count = 1
    while reason(parts):
        name = f"wait{count}{len(parts.responses.adapters)}"
        parts.job(name)
        end(parts, name)
        count += 1
    return count


# Waiting ------------------------------------------------------------------------------------------


def test_the_first_round_makes_a_test(parts: Parts) -> None:
    assert reason(parts) == ""


@pytest.mark.parametrize(
    ("refusals", "rounds"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 16), (20, 16)]
)
def test_the_next_test_comes_after_1_2_4_8_and_at_most_16_rounds(
    parts: Parts, refusals: int, rounds: int
) -> None:
    refuse(parts, refusals)
    assert rounds_until_the_next_test(parts) == rounds


def test_a_round_that_waits_says_how_long(parts: Parts) -> None:
    refuse(parts, 3)
    parts.job("a")
    end(parts, "a")
    assert reason(parts) == (
        "the gate refused 3 tests in a row and waits, so that small gains add up: this is round 2"
        " of 4 until the next test"
    )


def test_after_a_promotion_nothing_waits(parts: Parts) -> None:
    refuse(parts, 3)
    decide(parts, 2, PROVEN)
    assert reason(parts) == ""
    decide(parts, 3)
    assert reason(parts) == ""  # one refusal: the next round makes a test


def test_a_round_that_did_not_succeed_is_no_round_of_waiting(parts: Parts) -> None:
    refuse(parts, 2)
    parts.job("a")
    with parts.sessions.begin() as s:
        ledger.jobs.finish(s, "a", "failed")
    assert "round 1 of 2" in reason(parts)


# The end of all tests -----------------------------------------------------------------------------


def test_the_fifty_first_test_is_not_made_and_the_reason_has_the_remedies(parts: Parts) -> None:
    refuse(parts, MAX_TESTS - 1)
    rounds_until_the_next_test(parts)
    decide(parts, 2)
    assert reason(parts) == (
        "50 tests were made on these held-out questions, and one more could promote by chance;"
        " upload labeled questions until the gate asks another one (it asks the first"
        " TEMPO_GATE_QUESTIONS of the held-out ones; about one label in five is held out), promote"
        " a version by hand, or start anew with `tempo resume --new-tests`"
    )
    for number in range(3):  # no wait ends it
        parts.job(f"a{number}")
        end(parts, f"a{number}")
    assert reason(parts).startswith("50 tests were made")


def test_promotions_are_among_the_fifty_tests(parts: Parts) -> None:
    refuse(parts, MAX_TESTS - 1)
    decide(parts, 2, PROVEN)
    assert reason(parts).startswith("50 tests were made")


def test_new_held_out_questions_let_tests_begin_anew(parts: Parts) -> None:
    refuse(parts, MAX_TESTS)
    assert reason(parts, "digest of other questions") == ""


def test_an_operators_yes_lets_tests_begin_anew(parts: Parts) -> None:
    refuse(parts, MAX_TESTS)
    with parts.sessions.begin() as s:
        ledger.gate_tests.reset(s)
    assert reason(parts) == ""


# Starting again -----------------------------------------------------------------------------------


def restarts(parts: Parts) -> list[Any]:
    with parts.sessions() as s:
        return [event for event in ledger.events.find(s) if event.type == "policy.restarted"]


@pytest.mark.parametrize(
    ("refusals", "start"), [(8, "c2"), (9, "c1"), (10, "c2"), (18, "c2"), (19, "c1")]
)
def test_after_each_tenth_refusal_the_policy_starts_again_from_what_serves(
    parts: Parts, refusals: int, start: str
) -> None:
    refuse(parts, refusals)
    assert decide(parts, 2).checkpoint == start
    assert len(restarts(parts)) == (start == "c1")


def test_an_event_says_that_the_policy_starts_again(parts: Parts) -> None:
    refuse(parts, 9)
    decide(parts, 2)
    [event] = restarts(parts)
    assert (event.level, event.job_id) == ("warning", "j2")
    assert event.message == (
        "the policy starts again from tempo-v1: 10 tests in a row promoted nothing; upload more"
        " labeled questions, or change the settings, if this goes on"
    )


def test_an_event_says_that_the_policy_starts_again_after_a_candidate_that_is_worse(
    parts: Parts,
) -> None:
    assert decide(parts, 2, WORSE).checkpoint == "c1"
    [event] = restarts(parts)
    assert event.message == (
        "the policy starts again from tempo-v1: the candidate is worse than it, by a one-sided 95 %"
        " bound"
    )


def test_a_version_for_an_operator_after_ten_refusals_does_not_start_the_policy_again(
    parts: Parts,
) -> None:
    refuse(parts, 10)
    result = decide(parts, 2, PROVEN, auto_promote=False)
    assert (result.report["decision"], result.checkpoint) == ("candidate", "c2")
    assert restarts(parts) == []
