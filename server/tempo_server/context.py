"""The context: the settings and stores that all parts of the plugin share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import HTTPConnection

from tempo_server.errors import NotReadyError
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.errors import CorruptAdapterError
from tempo_storage.valkey.streams import QuestionStream


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An admin key as a process knows it."""

    id: str
    name: str
    scopes: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True)
class Context:
    """One process's settings and stores.

    The plugin stores it in `app.state.tempo` when the server is ready.
    """

    settings: ServerSettings
    sessions: sessionmaker[Session]
    store: AdapterStore
    stream: QuestionStream
    redis: redis.Redis
    base: str
    """The value of vLLM's --model: the name that manifests give the base."""
    max_lora_rank: int
    """The highest rank that vLLM loads, by its own --max-lora-rank."""
    default_decoding: Decoding = PLAIN
    """The sampling that vLLM uses where a request sets none."""
    served_names: tuple[str, ...] = ()
    """The base's names by vLLM's --served-model-name."""
    warnings: tuple[str, ...] = ()
    """vLLM's flags with which it serves badly, one sentence each."""
    keys: dict[str, KnownKey] = field(default_factory=dict)
    """The admin keys, by the key's sha256, as of the last reading of the ledger."""
    key_uses: dict[str, float] = field(default_factory=dict)
    """When a key was last used here, by its sha256."""

    @property
    def served_name(self) -> str:
        """The name under which vLLM serves the base."""
        return self.served_names[0] if self.served_names else self.base

    def verify(self, name: str) -> Path:
        """Return the directory of an adapter that this server can serve.

        Its files are compared with the ledger. If they are not those that were published, the
        ledger records it, and the version before it serves. Raises NotFoundError,
        CorruptAdapterError or AdapterMismatchError.
        """
        with self.sessions() as s:
            files = ledger.published.files(s, name)
        if not files:  # an old version, whose directory was not there when the server started
            with self.sessions.begin() as s:
                ledger.published.adopt(s, self.store)
                files = ledger.published.files(s, name)
        try:
            return self.store.verify(name, files, base=self.base, rank=self.max_lora_rank)
        except CorruptAdapterError as error:
            with self.sessions.begin() as s:
                ledger.published.record_corrupt(s, name, str(error))
            raise


def from_state(connection: HTTPConnection, name: str) -> Any:
    """Return what the plugin stored in `app.state`; raise NotReadyError while it starts."""
    if not hasattr(connection.app.state, name):
        raise NotReadyError("the server is starting; try again shortly")
    return getattr(connection.app.state, name)
