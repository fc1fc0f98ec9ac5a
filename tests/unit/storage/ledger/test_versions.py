"""The serving pointer: promotions, rollbacks, and the versions whose files must stay."""

import pytest
from ledgers import candidate
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.errors import ConflictError, NotFoundError

Sessions = sessionmaker[Session]


def promote_in_turn(s: Session, *versions: int) -> None:
    """Add versions, each the parent of the next one, and promote them one after the other."""
    s.add_all(candidate(version, parent=version - 1) for version in versions)
    s.flush()
    for version in versions:
        ledger.versions.promote(s, version)


def test_a_promotion_moves_the_pointer_and_a_rollback_returns_it(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
    with sessions.begin() as s:
        ledger.versions.promote(s, 1, expected_current=0)
        ledger.versions.promote(s, 2, expected_current=1)
    with sessions.begin() as s:
        assert ledger.versions.serving(s).version == 2
        assert ledger.versions.adapter(s, 1).status == "retired"
        assert ledger.versions.promote(s, ledger.versions.version_before(s)).version == 1
        assert ledger.versions.serving(s).sequence == 3
        assert ledger.versions.promote(s, 0).version == 0


def test_a_second_rollback_goes_further_back_and_never_forward(sessions: Sessions) -> None:
    with sessions.begin() as s:
        promote_in_turn(s, 1, 2, 3)
        for version in (2, 1, 0):
            assert ledger.versions.version_before(s) == version
            ledger.versions.promote(s, version)
        with pytest.raises(ConflictError, match="the base serves, there is nothing to roll back"):
            ledger.versions.version_before(s)


def test_a_promotion_over_a_changed_pointer_is_refused(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add(candidate(1))
    with sessions.begin() as s, pytest.raises(ConflictError, match="tempo-v0 is serving"):
        ledger.versions.promote(s, 1, expected_current=7)


def test_a_rejected_version_needs_force_and_a_corrupt_one_never_serves(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1, "rejected"), candidate(2)])
        s.flush()
        ledger.versions.mark_corrupt(s, 2, "flipped byte")
    with sessions.begin() as s:
        with pytest.raises(ConflictError, match="force=true"):
            ledger.versions.promote(s, 1)
        with pytest.raises(ConflictError, match="corrupt"):
            ledger.versions.promote(s, 2, force=True)
        with pytest.raises(NotFoundError, match="no adapter 'tempo-v9'; list the adapters"):
            ledger.versions.promote(s, 9)
        assert ledger.versions.promote(s, 1, force=True).version == 1


def test_a_version_that_was_forced_is_rejected_again_when_it_retires(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1, "rejected"), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1, force=True, reason="by hand")
        ledger.versions.promote(s, 2)
        assert ledger.versions.adapter(s, 1).status == "rejected"
        assert ledger.versions.adapter(s, 1).report == {"forced": "by hand"}
        assert ledger.versions.version_before(s) == BASE


def test_a_swept_version_is_never_promoted(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add(candidate(1, swept=True))
        s.flush()
        with pytest.raises(ConflictError, match="tempo-v1 was swept"):
            ledger.versions.promote(s, 1, force=True)


def test_a_corrupt_version_is_replaced_by_the_one_that_served_before_it(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
        sequence = ledger.versions.promote(s, 2).sequence
        ledger.versions.mark_corrupt(s, 2, "flipped byte")
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous, pointer.sequence) == (1, 1, sequence + 1)
        assert pointer.reason == "flipped byte"
        ledger.versions.mark_corrupt(s, 1, "cut short")
        assert (pointer.version, pointer.previous) == (BASE, BASE)
        with pytest.raises(ConflictError, match="corrupt, promote another: cut short"):
            ledger.versions.promote(s, 1)


def test_the_pointer_forgets_its_previous_version_if_that_is_corrupt(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
        ledger.versions.mark_corrupt(s, 1, "flipped byte")
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous) == (2, 2)


def test_a_version_that_serves_or_may_serve_again_is_in_use(sessions: Sessions) -> None:
    with sessions.begin() as s:
        promote_in_turn(s, *range(1, 8))
        s.add(candidate(8))
        assert ledger.versions.in_use(s) == {8, 7, 6}  # the candidate, serving, previous
        s.add_all([candidate(n) for n in range(9, 13)])
        assert ledger.versions.in_use(s) == {12, 11, 10, 7, 6}  # the three newest candidates
        for version in range(9, 13):
            ledger.versions.adapter(s, version).status = "rejected"
        ledger.versions.promote(s, 5)
        assert ledger.versions.in_use(s) == {8, 7, 5, 4}  # the sentinel would return to 4


def test_a_version_that_a_process_answers_with_or_holds_is_in_use(sessions: Sessions) -> None:
    with sessions.begin() as s:
        promote_in_turn(s, 1, 2, 3, 4, 5)
        held = ["tempo-v0", "tempo-v2", "tempo-t9"]
        ledger.versions.acknowledge(s, "p", version=3, sequence=1, held=held)
        assert ledger.versions.in_use(s) == {5, 4, 3, 2, 0}


def test_a_sound_ancestor_is_neither_corrupt_nor_rejected_nor_swept(sessions: Sessions) -> None:
    with sessions.begin() as s:
        promote_in_turn(s, 1, 2, 3, 4, 5)
        assert ledger.versions.sound_ancestor(s, 5) == 4
        ledger.versions.adapter(s, 4).status = "corrupt"
        ledger.versions.adapter(s, 3).status = "rejected"
        ledger.versions.adapter(s, 2).swept = True
        assert ledger.versions.sound_ancestor(s, 5) == 1
        assert ledger.versions.sound_ancestor(s, 1) == BASE


def test_a_process_is_behind_until_it_answers_with_the_serving_version(sessions: Sessions) -> None:
    with sessions.begin() as s:
        promote_in_turn(s, 1)
        ledger.versions.acknowledge(s, "old", version=0, sequence=0)
        ledger.versions.acknowledge(s, "refused", version=0, sequence=1, error="damaged")
        ledger.versions.acknowledge(s, "new", version=1, sequence=1)
        assert {p.id for p in ledger.versions.processes_behind(s)} == {"old", "refused"}
