"""What the plugin's parts share, made once before HTTP opens."""

from dataclasses import dataclass

import redis
from sqlalchemy.orm import Session, sessionmaker

from tempo_server.settings import ServerSettings
from tempo_server.spool import Counters
from tempo_storage.adapters import AdapterStore
from tempo_storage.streams import QuestionStream


@dataclass(frozen=True, slots=True)
class Context:
    """The stores, the settings and this process's counters; `app.state.tempo`."""

    settings: ServerSettings
    sessions: sessionmaker[Session]
    store: AdapterStore
    stream: QuestionStream
    redis: redis.Redis
    base: str
    """vLLM's --model as given: what manifests call the base."""
    counters: Counters
    warnings: tuple[str, ...] = ()
    """What of vLLM's flags makes it serve badly."""
