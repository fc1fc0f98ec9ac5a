"""Delete the files of old versions: beyond a count, or beyond a budget of disk. Their rows stay."""

import logging
from collections.abc import Sequence
from pathlib import Path

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Adapter
from tempo_trainer.learning import checkpoint
from tempo_trainer.learning.learner import World

logger = logging.getLogger("tempo.sweep")


def sweep(world: World, *, keep: str) -> None:
    """Delete the adapter and the checkpoint of what is too much, but for the checkpoint `keep`.

    The rows are marked before, in a transaction that no promotion crosses, so that none of them can
    be promoted any more; what a crash leaves behind, the next sweep deletes. What is deleted was
    there before the lease was found to be held: a worker that slept since then deletes nothing of
    its successor's.
    """
    settings, root = world.settings, world.settings.checkpoints_dir
    there, checkpoints = {*world.store.names()}, checkpoint.names(root)
    with ledger.leases.fenced(world.sessions, world.epoch()) as s:
        ledger.versions.locked_pointer(s)
        kept = [row for row in ledger.versions.adapters(s) if "swept" not in row.report]
        sizes = [row.bytes + _size(root / (row.checkpoint or "none")) for row in kept]
        most = settings.versions_kept, settings.versions_bytes
        for row in surplus(kept, sizes, ledger.versions.in_use(s), *most):
            row.report = row.report | {"swept": f"beyond {most[0]} versions or {most[1]} bytes"}
            logger.info("sweep: the files of %s go", version_name(row.version))
        swept = [
            version_name(row.version)
            for row in ledger.versions.adapters(s)
            if "swept" in row.report
        ]
        needed = {keep, *ledger.jobs.needed_checkpoints(s)}
    for name in there.intersection(swept):
        _remove(world, name)
    checkpoint.remove(root, checkpoints - needed)


def _remove(world: World, name: str) -> None:
    try:
        world.store.remove(name)
    except OSError as error:  # the next sweep tries again; a round must not fail of it
        logger.warning("sweep: the files of %s cannot be deleted: %s", name, error)


def surplus(
    newest_first: Sequence[Adapter],
    sizes: Sequence[int],
    in_use: set[int],
    most_versions: int,
    most_bytes: int,
) -> list[Adapter]:
    """Return what is beyond either bound when what is in use is counted first, then the newest."""
    both = sorted(
        zip(newest_first, sizes, strict=True), key=lambda pair: pair[0].version not in in_use
    )
    beyond, used = [], 0
    for position, (row, size) in enumerate(both, start=1):
        used += size
        if row.version not in in_use and (position > most_versions or used > most_bytes):
            beyond.append(row)
    return beyond


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*"))
