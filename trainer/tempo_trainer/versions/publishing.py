"""Publish the policy as trials and candidates, and delete the files of old versions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tempo_storage import ledger
from tempo_storage.adapters import BASE_NAME, AdapterStore, version_name
from tempo_storage.ledger.models import Adapter
from tempo_trainer.clock import phase
from tempo_trainer.learning import checkpoint
from tempo_trainer.learning.learner import Learner
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions import effect
from tempo_trainer.versions.lineage import lineage_of
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.versions")


@dataclass(frozen=True, slots=True)
class Publisher:
    """Writes a learner's policy to the adapter store, and deletes old adapters and checkpoints."""

    settings: WorkerSettings
    sessions: LeasedSessions
    store: AdapterStore
    base: str
    """The model that the adapters belong to."""

    @phase("publish")
    def publish_trial(self, learner: Learner) -> str:
        """Publish the policy as a trial and return its name.

        If the policy is untrained, return the base's name.
        """
        if learner.m_steps == 0:
            return BASE_NAME
        manifest = self.store.publish_trial(learner.networks.policy.export, base=self.base)
        with self.sessions.write() as s:
            ledger.published.add(s, manifest)
            ledger.published.keep_trials(s, self.store.names())
        return manifest.name

    def publish_candidate(self, learner: Learner, job_id: str) -> int:
        """Publish the policy as the next version and return its number; it serves nobody yet."""
        with self.sessions.read() as s:
            version = ledger.versions.next_version(s)
            parent = ledger.versions.serving(s).version
            lineage = lineage_of(s, learner.checkpoint, self.base, self.settings)
        manifest = self.store.publish(
            version_name(version), lambda directory: self._write(learner, directory), base=self.base
        )
        row = Adapter(
            version=version,
            status="candidate",
            parent=parent,
            job_id=job_id,
            checkpoint=learner.checkpoint,
            sha256=manifest.sha256["adapter_model.safetensors"],
            bytes=manifest.bytes,
            lineage=lineage,
        )
        with self.sessions.write() as s:
            s.add(row)
            ledger.published.add(s, manifest)
        return version

    def _write(self, learner: Learner, directory: Path) -> None:
        networks = learner.networks
        newest_first = [rollout for rollouts in reversed(learner.window) for rollout in rollouts]
        with networks.policy.scaled(self.settings.serving_scale):
            networks.policy.export(directory)
            max_tokens = self.settings.tokens_per_microbatch
            effect.write(directory, networks, newest_first, max_tokens=max_tokens)

    def sweep(self, *, keep: str) -> None:
        """Delete the files of surplus versions, but not the checkpoint `keep`; their rows stay.

        The rows are marked first, in one transaction with a lock on the serving pointer, so that
        none of them can be promoted any more. The next sweep deletes the files that a crash left.

        The names of files are read before the lease is checked. A worker that lost the lease while
        it slept therefore deletes nothing that its successor wrote.
        """
        root = self.settings.checkpoints_dir
        adapters = set(self.store.names())
        checkpoints = checkpoint.names(root)
        limits = (self.settings.versions_kept, self.settings.versions_bytes)
        with self.sessions.write() as s:
            ledger.versions.locked_pointer(s)
            rows = [row for row in ledger.versions.adapters(s) if not row.swept]
            sizes = [row.bytes + _size(root / (row.checkpoint or "none")) for row in rows]
            for row in surplus(rows, sizes, ledger.versions.in_use(s), *limits):
                row.swept = True
                reason = f"beyond {limits[0]} versions or {limits[1]} bytes"
                row.report = row.report | {"swept": reason}
                logger.info("the files of %s are deleted", version_name(row.version))
            swept = [version_name(row.version) for row in ledger.versions.adapters(s) if row.swept]
            needed = {keep, *ledger.jobs.needed_checkpoints(s)}
        for name in adapters.intersection(swept):
            self._remove(name)
        checkpoint.remove(root, checkpoints - needed)

    def _remove(self, name: str) -> None:
        try:
            self.store.remove(name)
        except OSError as error:  # a round must not fail for it; the next sweep tries again
            logger.warning("the files of %s cannot be deleted: %s", name, error)


def surplus(
    newest_first: Sequence[Adapter],
    sizes: Sequence[int],
    in_use: set[int],
    max_versions: int,
    max_bytes: int,
) -> list[Adapter]:
    """Return versions to sweep: not in use, and beyond a limit.

    Versions in use count towards the limits first, then the newest.
    """
    pairs = sorted(
        zip(newest_first, sizes, strict=True), key=lambda pair: pair[0].version not in in_use
    )
    beyond = []
    used = 0
    for position, (row, size) in enumerate(pairs, start=1):
        used += size
        if row.version not in in_use and (position > max_versions or used > max_bytes):
            beyond.append(row)
    return beyond


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*"))
