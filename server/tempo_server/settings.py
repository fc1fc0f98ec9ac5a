"""The server's settings: what it captures, under which names it serves, and its limits."""

from typing import Literal

from pydantic import Field

from tempo_storage.settings import StorageSettings


class ServerSettings(StorageSettings):
    """The settings that the plugin reads beside the shared ones."""

    aliases: str = "tempo"
    """Model names, separated by commas, that the serving version answers."""
    capture: Literal["off", "hash", "on"] = "on"
    """`on` keeps users' questions, `hash` keeps only their content hashes, `off` keeps nothing."""
    poll_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """Seconds between two readings of the serving pointer and of the admin keys."""
    max_question_bytes: int = Field(default=32 * 1024, ge=1, le=1024 * 1024)
    """Longer questions are skipped."""
    public_metrics: bool = False
    """Whether /metrics answers without the users' key. Without such a key it always does."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Limit on the bytes that wait on disk while Valkey is down; further questions are dropped."""

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The aliases as a tuple, without blanks and repetitions."""
        names = map(str.strip, self.aliases.split(","))
        return tuple(dict.fromkeys(filter(None, names)))


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
