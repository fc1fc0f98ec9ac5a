"""A version that is worse than the base after its promotion is rolled back, and nothing else is."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tempo_storage import ledger
from tempo_storage.errors import GateRefusedError, LeaseLostError
from tempo_storage.ledger.models import Adapter, File, LabeledExample
from tempo_storage.ledger.sessions import open_database
from tempo_storage.questions import is_for_sentinel
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs.check import check, compared
from tempo_trainer.sampling.sampler import Sample
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.versions.gate import Answered
from tempo_trainer.worker_settings import WorkerSettings

NAMES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]


class Served:
    """Answers as a server would: `skill` is the share of right responses by version."""

    def __init__(self, path: Path) -> None:
        self.skill = {"tempo-v0": 0.5, "tempo-v1": 0.5, "tempo-v2": 0.5}
        self.asked: list[str] = []
        self.names: set[str] = set()
        self.epoch = 1
        self.stop = False
        self.world = SimpleNamespace(
            sessions=open_database(f"sqlite:///{path / 'tempo.db'}"),
            settings=WorkerSettings(gate_samples=4),
            epoch=lambda: self.epoch,
            should_stop=lambda: self.stop,
        )
        self.meanwhile: Callable[[], object] = lambda: None

    def judged(self, examples: Any, adapter: str, *, n: int) -> Any:
        self.meanwhile()
        self.asked.append(adapter)
        self.names |= {example.content_hash for example in examples}
        right = round(self.skill[adapter] * n)
        verdicts = [[Verdict(i < right, str(i < right)) for i in range(n)] for _ in examples]
        return [], [[Sample((1, 2), (), "", "stop")] * n for _ in examples], verdicts


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    with made.world.sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        file = File(id="f", filename="x", bytes=1, sha256="", summary={}, created_at=0.0)
        ledger.labeled.add_file(s, file, [held_out(name) for name in NAMES])
        s.add_all([version(1, parent=0), version(2, parent=1)])
        s.flush()
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
    yield made
    made.world.sessions.kw["bind"].dispose()


def held_out(name: str) -> LabeledExample:
    known = {"messages": [], "reference": ["1"], "verifier": "exact", "details": {}}
    return LabeledExample(content_hash=name, file_id="f", split="held_out", **known)


def version(number: int, *, parent: int) -> Adapter:
    row = Adapter(version=number, parent=parent, status="candidate", job_id="j", sha256="")
    row.checkpoint, row.bytes, row.report = f"c{number}", 0, {"gate": "passed"}
    return row


def run(served: Any, name: str) -> dict[str, Any]:
    with served.world.sessions.begin() as s:
        job = ledger.jobs.create(s, name, "check", {})
        job.status = "running"
    result = check(served, job)
    with served.world.sessions.begin() as s:
        ledger.jobs.finish(s, name, "succeeded", result=result)
    return result


def serving(served: Any) -> int:
    with served.world.sessions() as s:
        return ledger.versions.serving(s).version


def test_the_sentinel_asks_its_half_and_reports(served: Served) -> None:
    first = run(served, "a")
    assert served.names == {name for name in NAMES if is_for_sentinel(name)}
    assert set(served.asked) == {"tempo-v0", "tempo-v2"}
    assert (first["below"], first["length_ratio"], first["entropy_ratio"]) == (False, 1.0, 1.0)
    assert (first["questions"], first["held_out"]) == (
        len(served.names),
        "the sentinel's half of 200",
    )
    with served.world.sessions() as s:
        report = ledger.versions.adapter(s, 2).report
    assert (report["gate"], report["sentinel"]["below_in_a_row"]) == ("passed", 0)


def test_the_third_bad_check_in_a_row_rolls_back_pauses_and_tells(served: Served) -> None:
    served.skill["tempo-v2"] = 0.25
    run(served, "a")
    run(served, "b")
    assert serving(served) == 2
    served.skill["tempo-v2"] = 0.5
    run(served, "c")  # it has recovered: the count begins anew
    served.skill["tempo-v2"] = 0.25
    assert [run(served, name)["below_in_a_row"] for name in "def"] == [1, 2, 3]
    with served.world.sessions.begin() as s:
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous) == (1, 1)
        assert ledger.versions.adapter(s, 2).status == "rejected"
        training = ledger.training.get(s)
        assert training.paused
        assert "3 checks in a row" in training.reason
        (event,) = [e for e in ledger.events.find(s) if e.type == "sentinel.rolled_back"]
        assert (event.level, event.data["from"], event.data["to"]) == ("error", 2, 1)
        with pytest.raises(GateRefusedError):
            ledger.versions.promote(s, 2)
        ledger.versions.promote(s, 2, force=True)
        ledger.versions.promote(s, 1)
        with pytest.raises(GateRefusedError):  # it served by force, and is as rejected as before
            ledger.versions.promote(s, 2)
        assert ledger.versions.sound_ancestor(s, 2) == 1


def test_a_version_that_is_not_sound_is_not_returned_to(served: Served) -> None:
    served.skill["tempo-v2"] = 0.25
    with served.world.sessions.begin() as s:
        ledger.versions.mark_corrupt(s, 1, "flipped byte")
    for name in "abc":
        run(served, name)
    assert serving(served) == ledger.versions.BASE
    assert "nothing to check" in run(served, "d")["summary"]


def test_what_was_below_before_it_was_promoted_again_does_not_count(served: Served) -> None:
    served.skill["tempo-v2"] = 0.25
    run(served, "a")
    run(served, "b")
    with served.world.sessions.begin() as s:
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
    assert run(served, "c")["below_in_a_row"] == 1
    assert serving(served) == 2


def test_a_version_as_good_as_the_base_stays_however_its_mean_falls() -> None:
    generator = np.random.default_rng(5)

    def answers() -> Answered:
        outcomes = np.where(generator.random((48, 8)) < 0.5, 1.0, -1.0)
        return Answered(outcomes=outcomes, answers=[["a"]] * 48, mean_tokens=1.0)

    found = [compared(answers(), answers()) for _ in range(100)]
    assert sum(f["against_base"]["mean"] < 0 for f in found) > 35
    assert sum(f["below"] for f in found) < 10


def test_a_check_gives_way_to_a_job_and_to_a_stop(served: Served) -> None:
    def ask_for_a_round() -> None:
        with served.world.sessions.begin() as s:
            if not ledger.jobs.find(s, modes=("round",)):
                ledger.jobs.create(s, "r", "round", {})

    served.meanwhile = ask_for_a_round
    with pytest.raises(CancelledError, match="gives way to r"):
        run(served, "a")
    assert len(served.asked) == 2  # the first questions to both
    served.stop = True
    with pytest.raises(StoppedError):
        run(served, "b")


def test_after_two_checks_that_gave_way_the_third_is_made(served: Served) -> None:
    with served.world.sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
    for name in "ab":
        with pytest.raises(CancelledError, match="gives way to r"):
            run(served, name)
        with served.world.sessions.begin() as s:
            ledger.jobs.finish(s, name, "cancelled")
    assert run(served, "c")["questions"] == len(served.names)
    with pytest.raises(CancelledError, match="gives way to r"):
        run(served, "d")


def test_a_round_that_a_pause_holds_is_not_given_way_to(served: Served) -> None:
    with served.world.sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
        ledger.training.set_paused(s, True)
    assert run(served, "a")["below"] is False


def test_questions_that_are_too_long_to_ask_are_left_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, mine = served.judged, sorted(n for n in NAMES if is_for_sentinel(n))

    def fitting(examples: Any, adapter: str, *, n: int) -> Any:
        known = [e for e in examples if e.content_hash not in mine[:9]]
        return judged(known, adapter, n=n)

    monkeypatch.setattr(served, "judged", fitting)
    assert run(served, "a")["questions"] == len(mine) - 9


def test_a_worker_without_the_lease_rolls_nothing_back(served: Served) -> None:
    served.world.settings = WorkerSettings(sentinel_checks=1)
    served.skill["tempo-v2"] = 0.0
    served.epoch = 7
    with pytest.raises(LeaseLostError):
        run(served, "a")
    assert serving(served) == 2
