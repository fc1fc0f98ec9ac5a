"""Build the learner from what the server says: its base model, its key, its verifiers."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from sqlalchemy.orm import Session, sessionmaker

from tempo_client import Tempo
from tempo_client.errors import APIError
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import SettingsError
from tempo_trainer import verifiers
from tempo_trainer.learner import Learner, World
from tempo_trainer.networks import Networks
from tempo_trainer.recorded import RecordedRollouts
from tempo_trainer.rollouts import Sampler, SamplingError
from tempo_trainer.verifier_pool import VerifierPool
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


def admin_key(settings: WorkerSettings) -> str:
    """Return the key with which the worker proves itself to the server."""
    if settings.api_key:
        return settings.api_key
    given = settings.api_key_file
    path = Path(given).expanduser() if given else settings.admin_key_path
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"no admin key at {path} ({error.strerror}); start the server first, or set "
            "TEMPO_API_KEY or TEMPO_API_KEY_FILE"
        ) from error


def served_base(settings: WorkerSettings, key: str) -> str:
    """Return the model that the server was started with: a directory or a hub id."""
    try:
        with Tempo(base_url=settings.base_url, api_key=key) as tempo:
            return tempo.status().model
    except APIError as error:
        raise SamplingError(f"{error}; is vLLM with the tempo plugin at {settings.base_url}") from (
            error
        )
