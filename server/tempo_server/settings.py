"""The server's settings: what is captured, under which names, within which bounds."""

from typing import Literal

from pydantic import Field

from tempo_storage.settings import StorageSettings


class ServerSettings(StorageSettings):
    """What the plugin reads beside the shared settings."""

    aliases: str = "tempo"
    """Model names, separated by commas, that the serving adapter answers."""
    capture: Literal["off", "hash", "on"] = "on"
    """Whether questions are kept: on, only their content hashes, or not at all."""
    poll_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """How often the serving pointer and the admin keys are read again."""
    max_question_bytes: int = Field(default=32 * 1024, ge=1, le=1024 * 1024)
    """Longer questions are skipped."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Most bytes that wait on disk while Valkey is down; beyond it questions are dropped."""

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The aliases, one by one."""
        names = map(str.strip, self.aliases.split(","))
        return tuple(dict.fromkeys(filter(None, names)))


class DoctorSettings(ServerSettings):
    """What `tempo doctor` reads beside what the server reads."""

    base_url: str = "http://127.0.0.1:8000"
    """The server that is examined."""
    api_key: str = ""
    """An admin key; empty: read `api_key_file`."""
    api_key_file: str = ""
    """File with an admin key; empty: admin.key in the data directory."""
    vllm_plugins: str | None = Field(default=None, validation_alias="VLLM_PLUGINS")
    """Plugins that vLLM may load here; None where nobody says, as under `tempo serve`."""
