"""What the plugin's parts share, made once before HTTP opens."""

from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import HTTPConnection

from tempo_server.capture.spool import Counters
from tempo_server.errors import NotReadyError
from tempo_server.settings import ServerSettings
from tempo_storage.adapters import AdapterStore
from tempo_storage.valkey.streams import QuestionStream


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
    known_keys: dict[str, list[str]] = field(default_factory=dict)
    """The scopes of each admin key by its sha256, as the ledger was last read."""


def prepared(name: str, connection: HTTPConnection) -> Any:
    """Return what the plugin has put into `app.state`; raise NotReadyError before it has."""
    if not hasattr(connection.app.state, name):
        raise NotReadyError("the server is starting; try again shortly")
    return getattr(connection.app.state, name)
