"""The labeled files that a version learned from, also those that were deleted since."""

from ledgers import candidate, iteration, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import File, Job


def job(id: str, started_at: float) -> Job:
    return Job(id=id, mode="round", status="succeeded", settings={}, progress={}, result={},
               started_at=started_at)  # fmt: skip


def learned(s: Session) -> dict[str, list[str]]:
    """Return the files that each checkpoint learned from."""
    checkpoints = ("a-1", "b-1", "c-1", "")
    return {name: [file.id for file in ledger.learned.files(s, name)] for name in checkpoints}


def test_a_version_learned_from_the_files_that_were_there_while_its_jobs_ran(
    sessions: sessionmaker[Session],
) -> None:
    # Job a runs from 10 to 20; b continues it from 30 to 40; c begins anew and runs from 50 to 60.
    with sessions.begin() as s:
        for name, parent, start in (("a", "", 10.0), ("b", "a-1", 30.0), ("c", "", 50.0)):
            s.add(job(name, start))
            s.add(iteration(name, 1, parent=parent, created_at=start + 10))
            s.add(candidate(int(start), job_id=name, checkpoint=f"{name}-1"))
        times = {
            "whole time": (0.0, None),
            "between jobs": (21.0, 29.0),
            "until a job had begun": (25.0, 35.0),
            "first": (1.0, 15.0),
            "last": (55.0, None),
            "later": (70.0, None),
        }
        s.add_all(
            labeled_file(id, created_at=start, deleted_at=end) for id, (start, end) in times.items()
        )
        s.flush()
        assert learned(s) == {
            "a-1": ["whole time", "first"],
            "b-1": ["whole time", "first", "until a job had begun"],
            "c-1": ["whole time", "last"],
            "": [],
        }
        files = {id: [s.get_one(File, id)] for id in times}
        versions = {id: ledger.learned.versions_from_files(s, files[id]) for id in times}
        assert versions == {
            "whole time": [10, 30, 50],
            "between jobs": [],
            "until a job had begun": [30],
            "first": [10, 30],
            "last": [50],
            "later": [],
        }
