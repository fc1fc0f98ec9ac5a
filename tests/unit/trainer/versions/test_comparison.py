"""Base, serving version and candidate answer the same held-out questions; a report says how."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from learners import Parts
from ledgers import candidate, captured, held_out, labeled_file, labeled_set
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.versions import comparison
from tempo_trainer.versions.comparison import compare

USERS = Decoding(temperature=0.6, top_p=0.95, top_k=20)
HELD_OUT = 40


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Version 1 serves; version 2 is a better candidate."""
    worker = Parts(sessions, tmp_path, gate_samples=4)
    worker.responses.skill = {"tempo-v1": 0.3, "tempo-v2": 0.95}
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all(labeled_set(train=40, held_out=HELD_OUT))
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
    return worker


def outcome(parts: Parts, version: int = 2) -> comparison.TestedCandidate:
    return compare(
        parts.settings, parts.leased, parts.responses, parts.book, version, round_tokens=500
    )


def take_requests(parts: Parts) -> list[tuple[str, int, Decoding]]:
    """Return the requests since the last call."""
    requests = list(parts.responses.requests)
    parts.responses.requests.clear()
    return requests


def test_every_version_answers_every_held_out_question_greedily_and_as_users_sample(
    parts: Parts,
) -> None:
    parts.responses.default_decoding = USERS
    test = outcome(parts)
    versions = ("tempo-v0", "tempo-v1", "tempo-v2")
    ways = ((1, GREEDY), (4, USERS), (4, PLAIN))
    assert take_requests(parts) == [(version, *way) for way in ways for version in versions]
    with parts.sessions() as s:
        every = {example.content_hash for example in ledger.labeled.examples(s, "held_out")}
    assert parts.responses.hashes == every
    assert test.decision.promote


def test_the_users_decoding_is_that_of_the_captured_questions(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured(str(n), f"{n} + 9", temperature=0.25) for n in range(5)])
    assert outcome(parts).report["decoding"] == asdict(Decoding(temperature=0.25))


def test_the_report_has_the_figures_behind_the_decision(parts: Parts) -> None:
    report = outcome(parts).report
    assert report["promote"] is True
    assert report["reason"].startswith("proven: +")
    assert (report["questions"], report["responses"], report["too_long"]) == (HELD_OUT, 4, 0)
    assert (report["max_tests"], report["missing_labels"]) == (50, 0)
    assert 0.1 < report["smallest_gain"] < 0.2
    accuracy = report["accuracy"]
    assert accuracy["candidate"]["users"] > 0.85 > accuracy["base"]["users"] > 0.4
    assert accuracy["serving"]["users"] < 0.4
    names = {"greedy", "users", "plain", "majority", "pass_at_8", "entropy"}
    assert names < accuracy["candidate"].keys()
    [look] = report["looks"]
    assert (look["responses"], look["level"]) == (4, 0.0001)
    assert [gain["rival"] for gain in look["gains"]] == ["the base", "the serving version"]
    assert all(gain["standard_errors"] > look["needed"] for gain in look["gains"])


def test_a_test_belongs_to_the_questions_that_it_asked(parts: Parts) -> None:
    parts.settings = parts.settings.model_copy(update={"gate_questions": 32})
    with parts.sessions() as s:
        first = ledger.labeled.digest(ledger.labeled.held_out(s, limit=32))
        assert first != ledger.labeled.held_out_digest(s)
    assert outcome(parts).held_out == first


def test_the_report_says_what_the_decision_cost_beside_the_round(parts: Parts) -> None:
    cost = outcome(parts).report["cost"]
    responses = 3 * HELD_OUT * (1 + 4)  # three versions, greedily and at the users' decoding
    assert (cost["responses"], cost["tokens"]) == (responses, 3 * responses)
    assert cost["round_tokens"] == 500


def test_gate_questions_bounds_the_cost_and_below_32_promotes_nothing(parts: Parts) -> None:
    parts.settings = parts.settings.model_copy(update={"gate_questions": 8})
    report = outcome(parts).report
    assert report["promote"] is False
    assert "8 held-out questions are asked" in report["reason"]
    assert "raise TEMPO_GATE_QUESTIONS to 32" in report["reason"]
    assert report["questions"] == 8
    assert report["cost"]["responses"] == 3 * 8 * (1 + 4 + 16)  # so few need a second look


def test_a_second_look_is_drawn_only_where_the_first_leaves_the_question_open(
    parts: Parts,
) -> None:
    parts.responses.skill["tempo-v2"] = 0.58
    report = outcome(parts).report
    assert [look["responses"] for look in report["looks"]] == [4, 20]
    assert ("tempo-v2", 16, PLAIN) in take_requests(parts)


def test_the_base_answers_once_while_it_serves(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 0)
    report = outcome(parts).report
    assert [version for version, *_ in take_requests(parts)] == ["tempo-v0", "tempo-v2"] * 2
    assert report["accuracy"]["serving"] == report["accuracy"]["base"]
    assert [gain["rival"] for gain in report["looks"][0]["gains"]] == ["the base"]


def test_base_and_serving_version_keep_their_answers_for_the_next_candidate(parts: Parts) -> None:
    outcome(parts)
    take_requests(parts)
    with parts.sessions.begin() as s:
        s.add(candidate(3))
    outcome(parts, 3)
    assert {version for version, *_ in take_requests(parts)} == {"tempo-v3"}


def test_a_candidate_that_was_promoted_answers_anew(parts: Parts) -> None:
    outcome(parts)
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 2)
        s.add(candidate(3))
    take_requests(parts)
    outcome(parts, 3)
    assert {version for version, *_ in take_requests(parts)} == {"tempo-v2", "tempo-v3"}


def test_new_held_out_questions_are_asked_of_every_version(parts: Parts) -> None:
    outcome(parts)
    take_requests(parts)
    with parts.sessions.begin() as s:
        s.add(held_out("one more", reference=["more"]))
    assert outcome(parts).report["questions"] == HELD_OUT + 1
    assert {version for version, *_ in take_requests(parts)} == {"tempo-v0", "tempo-v1", "tempo-v2"}


def test_questions_that_are_too_long_are_left_out_and_counted(parts: Parts) -> None:
    with parts.sessions() as s:
        examples = ledger.labeled.held_out(s, limit=HELD_OUT)
    parts.responses.too_long = [example.content_hash for example in examples[:3]]
    report = outcome(parts).report
    assert (report["questions"], report["too_long"]) == (HELD_OUT - 3, 3)


def test_below_32_questions_that_fit_nothing_is_promoted_by_itself(parts: Parts) -> None:
    with parts.sessions() as s:
        examples = ledger.labeled.held_out(s, limit=HELD_OUT)
    parts.responses.too_long = [example.content_hash for example in examples[:9]]
    test = outcome(parts)
    assert (test.decision.promote, test.decision.by_hand) == (False, True)
    assert test.report["reason"].startswith(
        "31 held-out questions are asked, too few for a promotion by itself; 9 are too long:"
        " raise vLLM's --max-model-len, or lower TEMPO_MAX_RESPONSE_TOKENS"
    )


def drop(parts: Parts, *, held_out: int) -> None:
    """Delete labeled questions until so many are held out."""
    with parts.sessions.begin() as s:
        for example in ledger.labeled.examples(s, "held_out")[held_out:]:
            s.delete(example)


@pytest.mark.parametrize(("count", "missing"), [(32, 0), (31, 1), (20, 12)])
def test_below_32_held_out_questions_the_report_says_how_many_labels_are_missing(
    parts: Parts, count: int, missing: int
) -> None:
    drop(parts, held_out=count)
    test = outcome(parts)
    assert test.report["missing_labels"] == missing
    assert test.decision.promote is (missing == 0)
    assert test.decision.by_hand is (missing > 0)
    assert (f"upload {missing} more labeled questions" in test.report["reason"]) is (missing > 0)


def test_users_who_ask_other_questions_than_the_labeled_ones_leave_it_to_an_operator(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def likeness(asked: Sequence[str], labeled: Sequence[str]) -> float:
        assert list(asked) == ["Write a haiku about rain"]
        assert set(labeled) == {f"{n} + {n}" for n in range(80)}
        return 0.2

    monkeypatch.setattr(comparison, "likeness", likeness)
    with parts.sessions.begin() as s:
        ledger.pool.add(s, [captured("a", "Write a haiku about rain")])
    test = outcome(parts)
    assert (test.decision.promote, test.decision.by_hand) == (False, True)
    assert test.report["likeness"] == 0.2
    assert "unlike the labeled ones (likeness 0.20, below 0.5)" in test.report["reason"]
    assert "upload labeled questions of the kind that users ask" in test.report["reason"]


def test_a_group_that_loses_vetoes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    import learners

    with parts.sessions.begin() as s:
        for number, example in enumerate(ledger.labeled.examples(s, "held_out")):
            example.details = {"group": "long"} if number < 16 else {"group": 7}
        of_group = {e.content_hash for e in ledger.labeled.examples(s, "held_out")[:16]}
    own = learners.luck

    def unlucky(name: str, position: int) -> float:
        turned = parts.responses.adapters[-1] == "tempo-v2" and name in of_group
        return own(name, position) + 0.85 * turned

    monkeypatch.setattr(learners, "luck", unlucky)
    reason: Any = outcome(parts).report["reason"]
    assert "the group 'long' of 16 questions loses at least" in reason
