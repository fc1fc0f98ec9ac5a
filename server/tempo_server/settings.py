"""The server's settings: what it captures, under which names it serves, and its limits."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tempo_storage.settings import StorageSettings

KEY_ID = re.compile("[0-9a-fA-F]{16}")


def _names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas, without blanks and repetitions."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def _check_key_ids(value: str) -> str:
    if not all(KEY_ID.fullmatch(name) for name in _names(value)):
        raise ValueError("give ids of 16 hex digits with commas between them; never a key itself")
    return value


class ServerSettings(StorageSettings):
    """The settings that the plugin reads beside the shared ones."""

    aliases: str = "tempo"
    """Model names, separated by commas, that the serving version answers."""
    capture: Literal["off", "hash", "on"] = "on"
    """`on` keeps users' questions, `hash` keeps only their content hashes, `off` keeps nothing."""
    redactors: str = ""
    """Names, separated by commas, of the redactors that change each question before it is written.
    `personal` takes out e-mail addresses, phone numbers, payment cards and keys; others are
    installed under the entry-point group `tempo.redactors`."""
    opt_out_keys: Annotated[str, AfterValidator(_check_key_ids)] = ""
    """Ids of users' keys, separated by commas, whose questions are never kept. An id is the first
    16 hex digits of the sha256 of the Authorization header, as `tempo erase` shows it."""
    poll_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """Seconds between two readings of the serving pointer and of the admin keys."""
    max_question_bytes: int = Field(default=32 * 1024, ge=1, le=1024 * 1024)
    """Longer questions are skipped."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Limit on the bytes that wait on disk while Valkey is down; further questions are dropped."""

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The aliases as a tuple."""
        return _names(self.aliases)

    @property
    def redactor_names(self) -> tuple[str, ...]:
        """The redactors as a tuple, in the order in which they run."""
        return _names(self.redactors)

    @property
    def opt_out_key_ids(self) -> frozenset[str]:
        """The ids of the keys that are opted out."""
        return frozenset(_names(self.opt_out_keys.lower()))


class DoctorSettings(ServerSettings):
    """The settings that `tempo doctor` reads beside the server's."""

    base_url: str = "http://127.0.0.1:8000"
    """The server that is examined."""
    api_key: str = ""
    """An admin key; empty: read `api_key_file`."""
    api_key_file: str = ""
    """File with an admin key; empty: admin.key in the data directory."""
    vllm_plugins: str | None = Field(default=None, validation_alias="VLLM_PLUGINS")
    """Plugins that vLLM may load; None: the variable is not set, and `tempo serve` sets it."""
