"""Build the learner from what the server says: its base model, its key, its verifiers."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage.adapters import AdapterStore
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.learning.learner import Learner, World
from tempo_trainer.sampling import verifiers
from tempo_trainer.sampling.recorded import RecordedRollouts
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.sampling.server import admin_key, served_base
from tempo_trainer.sampling.verifier_pool import VerifierPool
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.startup")


def build_learner(
    settings: WorkerSettings,
    sessions: sessionmaker[Session],
    *,
    epoch: Callable[[], int],
    should_stop: Callable[[], bool],
) -> Learner:
    """Load the base that the server serves and connect everything that a job needs.

    Raises SamplingError when the server does not answer, SettingsError without a key.
    """
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 2) // 2))
    key = admin_key(settings)
    base = served_base(settings, key)
    networks = Networks.load(base, settings)
    logger.info("learner: base %s is loaded", base)
    store = AdapterStore(settings.adapters_dir)
    store.sweep_unfinished()
    sampler = Sampler(settings, key=key, should_stop=should_stop)
    recorded = Path(settings.rollouts_dir) if settings.rollouts_dir else None
    world = World(
        settings=settings,
        sessions=sessions,
        store=store,
        sampler=sampler,
        rollouts=RecordedRollouts(recorded, sampler) if recorded else sampler,
        verifiers=VerifierPool(verifiers.names(), size=settings.verifier_processes),
        base=base,
        epoch=epoch,
        should_stop=should_stop,
    )
    return Learner(world, networks)
