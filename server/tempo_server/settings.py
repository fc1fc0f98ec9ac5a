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
    """How often the serving pointer is read again."""
    max_question_bytes: int = Field(default=32 * 1024, ge=1, le=1024 * 1024)
    """Longer questions are skipped."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Most bytes that wait on disk while Valkey is down; beyond it questions are dropped."""

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The aliases, one by one."""
        return tuple(
            dict.fromkeys(name.strip() for name in self.aliases.split(",") if name.strip())
        )
