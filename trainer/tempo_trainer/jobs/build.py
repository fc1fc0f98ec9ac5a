"""Build the parts that a round uses, for the base model that the server names."""

import logging
import os
from collections.abc import Callable
from functools import partial

import torch

from tempo_storage.adapters import AdapterStore
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.jobs.rounds import Rounds
from tempo_trainer.learning.learner import Learner
from tempo_trainer.sampling import verifiers
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.sampling.server import admin_key, served_model
from tempo_trainer.sampling.verifier_pool import VerifierPool
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.answers import AnswerBook, draw_answers
from tempo_trainer.versions.publishing import Publisher
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.jobs")


def build_rounds(
    settings: WorkerSettings, sessions: LeasedSessions, should_stop: Callable[[], bool]
) -> Rounds:
    """Load the base that the server serves, connect to the server and start the verifiers.

    Raises SamplingError if the server does not answer, SettingsError without an admin key.
    """
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 2) // 2))
    key = admin_key(settings)
    base, decoding = served_model(settings, key)
    learner = Learner(Networks.load(base, settings), settings)
    logger.info("base %s is loaded", base)
    store = AdapterStore(settings.adapters_dir)
    store.sweep_unfinished()
    sampler = Sampler(settings, key=key, should_stop=should_stop)
    pool = VerifierPool(verifiers.names(), size=settings.verifier_processes)
    responses = ResponseSource(settings, sessions, learner.decks, sampler, pool, decoding)
    publisher = Publisher(settings, sessions, store, base)
    book = AnswerBook(partial(draw_answers, responses))
    return Rounds(settings, learner, responses, publisher, book)
