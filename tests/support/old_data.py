"""The data directory that tests/integration/upgrades/make_data.py made with commit 389b244.

Its history: a round without questions failed and a job was cancelled; a recalibration; rounds
promoted versions 1, 2 and 4, with rollbacks to the base between them; the gate rejected version 3,
which an operator forced and the sentinel rolled back; version 1 was swept; a round is queued.
"""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parents[1] / "integration" / "upgrades" / "data_389b244.tar.gz"
BASE = "base"  # the manifests name the base by this relative path
PROCESS = "old-host-5546-f469"  # the server process that probed the versions
LAST_STEP = "ftjob-08fb9e366fae90c2ff7dc723-4"  # the checkpoint from which training goes on
QUEUED = "ftjob-7a24bf784eedcdf2af935c9d"  # the round that waits


def unpack(directory: Path) -> Path:
    """Write base/, data/, installed/, postgresql.sql and reader.key; return the directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory
