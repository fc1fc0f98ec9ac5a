"""Base, serving version and candidate answer the same held-out questions."""

from pathlib import Path

import pytest
from learners import Parts
from ledgers import candidate, held_out, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.question_hash import is_for_sentinel
from tempo_trainer.versions.promotion import compare


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Version 1 serves, version 2 is a candidate that is always right."""
    worker = Parts(sessions, tmp_path, gate_samples=4)
    worker.responses.skill = {"tempo-v1": 0.0, "tempo-v2": 1.0}
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all([held_out(f"{n} + {n}") for n in range(200)])
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
    return worker


def test_the_gate_asks_its_half_and_reports_the_cost(parts: Parts) -> None:
    decision = compare(parts.settings, parts.leased, parts.responses, 2)
    assert parts.responses.adapters == ["tempo-v0", "tempo-v1", "tempo-v2"]
    with parts.sessions() as s:
        hashes = {example.content_hash for example in ledger.labeled.examples(s, "held_out")}
    gates_half = {name for name in hashes if not is_for_sentinel(name)}
    assert (parts.responses.hashes, decision.questions) == (gates_half, len(gates_half))
    assert decision.held_out == "the gate's half of 200"
    assert decision.cost["responses"] == 3 * 4 * len(gates_half)
    assert decision.samples["candidate"] == {
        "avg_at_k": 1.0,
        "pass_at_k": 1.0,
        "entropy": 0.0,
        "mean_tokens": 3.0,
    }
    assert decision.samples["serving"]["avg_at_k"] == 0.0


def test_the_base_answers_once_while_it_serves(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 0)
    decision = compare(parts.settings, parts.leased, parts.responses, 2)
    assert parts.responses.adapters == ["tempo-v0", "tempo-v2"]
    assert decision.samples["serving"] == decision.samples["base"]
