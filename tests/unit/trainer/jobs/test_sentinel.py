"""A version that is worse than the base after its promotion is rolled back, and no other."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gates import answers
from learners import Parts
from ledgers import candidate, captured, labeled_file, labeled_set
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_storage.errors import GateRefusedError, LeaseLostError
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs.sentinel import check, compared

USERS = Decoding(temperature=0.6, top_p=0.95, top_k=20)
HELD_OUT = 160


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Version 2 serves; it was promoted over version 1."""
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all(labeled_set(train=2, held_out=HELD_OUT))
        s.add_all([candidate(1), candidate(2, parent=1, report={"gate": "passed"})])
        s.flush()
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
    return Parts(sessions, tmp_path, gate_samples=4)


def run(parts: Parts, name: str) -> dict[str, Any]:
    """Make a check and return its report."""
    result = check(parts.job(name, "check"), parts.settings, parts.responses)
    with parts.sessions.begin() as s:
        ledger.jobs.finish(s, name, "succeeded", result=result)
    return result.report


def serving(parts: Parts) -> int:
    with parts.sessions() as s:
        return ledger.versions.serving(s).version


def held_out_hashes(parts: Parts) -> set[str]:
    with parts.sessions() as s:
        return {example.content_hash for example in ledger.labeled.examples(s, "held_out")}


def test_a_check_compares_the_serving_version_with_the_base_and_reports(parts: Parts) -> None:
    report = run(parts, "a")
    assert set(parts.responses.adapters) == {"tempo-v0", "tempo-v2"}
    assert report["below"] is False
    assert report["accuracy"]["base"] == report["accuracy"]["serving"]
    assert report["against_base"]["mean"] == 0.0
    assert (report["questions"], report["responses"]) == (HELD_OUT // 2, 4)
    assert report["summary"] == "tempo-v2 against the base: +0.000, at most +0.000"
    with parts.sessions() as s:
        report = ledger.versions.adapter(s, 2).report
    assert (report["gate"], report["sentinel"]["below_in_a_row"]) == ("passed", 0)


def test_each_check_asks_another_random_half_and_takes_fresh_responses(parts: Parts) -> None:
    halves = []
    for name in "abc":
        parts.responses.hashes = set()
        parts.responses.requests.clear()
        run(parts, name)
        halves.append(frozenset(parts.responses.hashes))
        answered = [adapter for adapter, *_ in parts.responses.requests]
        requests = 3 * HELD_OUT // 2 // 8  # three decodings, eight questions at once
        assert answered.count("tempo-v0") == answered.count("tempo-v2") == requests
    assert {len(half) for half in halves} == {HELD_OUT // 2}
    assert len(set(halves)) == 3
    assert all(half < held_out_hashes(parts) for half in halves)


def test_a_check_asks_at_most_as_many_questions_as_the_gate_may(parts: Parts) -> None:
    parts.settings = parts.settings.model_copy(update={"gate_questions": 8})
    assert run(parts, "a")["questions"] == 8


@pytest.mark.parametrize(
    ("temperature", "n", "questions"), [(0.6, 4, HELD_OUT // 2), (0.0, 1, HELD_OUT)]
)
def test_a_check_decodes_as_the_users_do_and_greedily_only_once_on_all_questions(
    parts: Parts, temperature: float, n: int, questions: int
) -> None:
    parts.responses.default_decoding = USERS
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured("q", "a user asks", temperature=temperature)])
    decoding = Decoding(temperature, USERS.top_p, USERS.top_k)
    report = run(parts, "a")
    ways = {request[1:] for request in parts.responses.requests}
    assert ways == {(n, decoding), (1, GREEDY), (4, PLAIN)}
    assert report["decoding"] == asdict(decoding)
    assert (report["responses"], report["questions"]) == (n, questions)


def keep(parts: Parts, count: int) -> None:
    """Delete held-out questions until there are so many."""
    with parts.sessions.begin() as s:
        for example in ledger.labeled.examples(s, "held_out")[count:]:
            s.delete(example)


@pytest.mark.parametrize(("held_out", "asked"), [(32, 16), (31, 31), (2, 2)])
def test_of_few_held_out_questions_a_check_asks_all(
    parts: Parts, held_out: int, asked: int
) -> None:
    keep(parts, held_out)
    assert run(parts, "a")["questions"] == asked


def test_a_check_of_one_question_is_not_made_and_says_why(parts: Parts) -> None:
    keep(parts, 1)
    assert run(parts, "a")["summary"] == (
        "there is nothing to check: 1 held-out questions leave room for a response, and 2 are"
        " needed; upload more labeled questions"
    )
    assert parts.responses.requests == []


def test_the_third_bad_check_in_a_row_rolls_back_and_pauses_with_an_event(parts: Parts) -> None:
    skill = parts.responses.skill
    skill["tempo-v2"] = 0.25
    run(parts, "a")
    run(parts, "b")
    assert serving(parts) == 2
    skill["tempo-v2"] = 0.5
    run(parts, "c")  # it has recovered: the count begins anew
    skill["tempo-v2"] = 0.25
    assert [run(parts, name)["below_in_a_row"] for name in "def"] == [1, 2, 3]
    with parts.sessions.begin() as s:
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous) == (1, 1)
        assert ledger.versions.adapter(s, 2).status == "rejected"
        training = ledger.training.get(s)
        assert training.paused
        assert "3 checks in a row" in training.reason
        [event] = [e for e in ledger.events.find(s) if e.type == "sentinel.rolled_back"]
        assert (event.level, event.data["from"], event.data["to"]) == ("error", 2, 1)
        assert event.message.endswith("tempo-v1 serves again")


def test_a_version_that_the_sentinel_rejected_serves_again_by_force_only(parts: Parts) -> None:
    parts.responses.skill["tempo-v2"] = 0.25
    for name in "abc":
        run(parts, name)
    with parts.sessions.begin() as s:
        with pytest.raises(GateRefusedError):
            ledger.versions.promote(s, 2)
        ledger.versions.promote(s, 2, force=True)
        ledger.versions.promote(s, 1)
        with pytest.raises(GateRefusedError):  # service by force leaves it rejected
            ledger.versions.promote(s, 2)
        assert ledger.versions.sound_ancestor(s, 2) == 1


def test_a_rollback_passes_over_a_version_that_is_not_sound(parts: Parts) -> None:
    parts.responses.skill["tempo-v2"] = 0.25
    with parts.sessions.begin() as s:
        ledger.versions.mark_corrupt(s, 1, "flipped byte")
    for name in "abc":
        run(parts, name)
    assert serving(parts) == BASE
    assert "nothing to check" in run(parts, "d")["summary"]


def test_a_check_before_the_last_promotion_does_not_count(parts: Parts) -> None:
    parts.responses.skill["tempo-v2"] = 0.25
    run(parts, "a")
    run(parts, "b")
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
    assert run(parts, "c")["below_in_a_row"] == 1
    assert serving(parts) == 2


def test_a_version_as_good_as_the_base_stays_however_its_mean_falls() -> None:
    generator = np.random.default_rng(5)
    checks = [
        compared(*(answers(generator.random((32, 16)) < 0.5) for _ in range(2))) for _ in range(200)
    ]
    assert sum(check["against_base"]["mean"] < 0 for check in checks) > 70
    assert sum(check["below"] for check in checks) < 12


def test_a_version_ten_points_below_the_base_is_found_by_most_checks() -> None:
    generator = np.random.default_rng(5)
    checks = [
        compared(
            answers(generator.random((32, 16)) < 0.5), answers(generator.random((32, 16)) < 0.4)
        )
        for _ in range(100)
    ]
    assert sum(check["below"] for check in checks) > 70


def test_the_sentinel_looks_at_the_bound_of_a_paired_interval() -> None:
    half = np.arange(16) < 8
    base = answers(np.tile(half, (4, 1)))
    serving = answers(np.arange(16) < np.array([[6], [4], [6], [4]]))
    interval = compared(base, serving)["against_base"]
    # Differences of -2 and -4 of 16 responses; t of 3 degrees of freedom at 0.025 is 3.182.
    assert interval["mean"] == pytest.approx(-0.1875)
    assert interval["high"] == pytest.approx(-0.1875 + 3.182 * 0.0722 / 2, abs=1e-4)


def test_a_check_gives_way_to_a_job_and_to_a_stop(parts: Parts) -> None:
    def ask_for_a_round() -> None:
        with parts.sessions.begin() as s:
            if not ledger.jobs.find(s, modes=("round",)):
                ledger.jobs.create(s, "r", "round", {})

    parts.responses.meanwhile = ask_for_a_round
    with pytest.raises(CancelledError, match="gives way to r"):
        run(parts, "a")
    assert len(parts.responses.adapters) == 6  # both answered the first few questions, three ways
    parts.stops = True
    with pytest.raises(StoppedError):
        run(parts, "b")


def test_the_check_after_two_that_gave_way_is_made(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
    for name in "ab":
        with pytest.raises(CancelledError, match="gives way to r"):
            run(parts, name)
        with parts.sessions.begin() as s:
            ledger.jobs.finish(s, name, "cancelled", error="gives way to r")
    assert run(parts, "c")["questions"] == HELD_OUT // 2
    with pytest.raises(CancelledError, match="gives way to r"):
        run(parts, "d")


def test_a_check_that_an_operator_cancelled_does_not_count_as_one_that_gave_way(
    parts: Parts,
) -> None:
    with parts.sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
        for name in "ab":
            ledger.jobs.create(s, name, "check", {})
            ledger.jobs.finish(s, name, "cancelled")
    with pytest.raises(CancelledError, match="gives way to r"):
        run(parts, "c")


def test_a_check_does_not_give_way_to_a_round_that_a_pause_holds(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
        ledger.training.set_paused(s, True)
    assert run(parts, "a")["below"] is False


def test_a_check_leaves_out_questions_that_are_too_long(parts: Parts) -> None:
    too_long = sorted(held_out_hashes(parts))[::2]
    parts.responses.too_long = too_long
    assert run(parts, "a")["questions"] < HELD_OUT // 2
    assert parts.responses.hashes.isdisjoint(too_long)


def test_a_worker_without_the_lease_rolls_nothing_back(parts: Parts) -> None:
    parts.settings = parts.settings.model_copy(update={"sentinel_checks": 1})
    parts.responses.skill["tempo-v2"] = 0.0
    parts.epoch = 7
    with pytest.raises(LeaseLostError):
        run(parts, "a")
    assert serving(parts) == 2
