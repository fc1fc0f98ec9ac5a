"""The server's settings: what it captures, under which names it serves, and its limits."""

import ipaddress
import os
import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from tempo_storage.settings import StorageSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ID = re.compile("[0-9a-fA-F]{16}")


def _names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas, without blanks and repetitions."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


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
    opt_out_keys: str = ""
    """Ids of users' keys or of tenants, separated by commas, whose questions are never kept. The id
    of a key is the first 16 hex digits of the sha256 of the Authorization header; `tempo erase`
    lists those of tenants."""
    poll_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """Seconds between two readings of the serving pointer and of the admin keys."""
    max_question_bytes: int = Field(default=32 * 1024, ge=1, le=1024 * 1024)
    """Longer questions are skipped."""
    max_request_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """Largest body of a request; a larger one answers 413."""
    public_metrics: bool = False
    """Whether /metrics answers without the users' key. Without such a key it always does."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Limit on the bytes that wait on disk while Valkey is down; further questions are dropped."""
    tenant_header: str = Field(default="", pattern=r"^[A-Za-z0-9-]*$")
    """Header by which trusted proxies name the tenant, for example X-User-Id; empty: the tenant is
    the key that vLLM checked."""
    trusted_proxies: str = Field(default="", validate_default=True)
    """Addresses or networks, separated by commas, of the proxies in front of the server. The
    tenant's header and X-Forwarded-For of other clients have no effect."""
    tenant_by_address: bool = False
    """Let each address be a tenant of its own, if neither a header nor a key names the tenant.
    Otherwise such requests are all of one tenant, "anonymous"."""
    tenant_questions_per_minute: int = Field(default=6000, ge=0)
    """Questions of a tenant that an API process keeps in a minute; it answers the others without
    keeping them. 0: no limit."""

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The aliases as a tuple."""
        return _names(self.aliases)

    @property
    def redactor_names(self) -> tuple[str, ...]:
        """The redactors as a tuple, in the order in which they run."""
        return _names(self.redactors)

    @property
    def opt_out_ids(self) -> frozenset[str]:
        """The ids of the keys and of the tenants that are opted out."""
        return frozenset(_names(self.opt_out_keys.lower()))

    @property
    def proxy_networks(self) -> list[Network]:
        """The trusted proxies as networks."""
        return [ipaddress.ip_network(name) for name in _names(self.trusted_proxies)]

    @field_validator("opt_out_keys")
    @classmethod
    def check_ids(cls, value: str) -> str:
        """Raise ValueError for what is no list of ids."""
        if not all(ID.fullmatch(name) for name in _names(value)):
            raise ValueError(
                "give ids of 16 hex digits with commas between them; never a key itself"
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def check_proxies(cls, value: str, info: ValidationInfo) -> str:
        """Raise ValueError for what is no address or network, or a header that nobody may send."""
        for name in _names(value):
            try:
                ipaddress.ip_network(name)
            except ValueError as error:
                raise ValueError(f"{error}; give addresses or networks like 10.0.0.0/8") from error
        if info.data.get("tenant_header") and not value.strip():
            raise ValueError("TEMPO_TENANT_HEADER is believed from these only; name the proxies")
        return value

    def use_peer_addresses(self) -> None:
        """Let uvicorn tell the address of the connection, not the one that X-Forwarded-For claims.

        It believes this header of every client on the same machine. Call this before uvicorn
        starts, which reads the variable.
        """
        if self.tenant_header or self.tenant_by_address:
            os.environ["FORWARDED_ALLOW_IPS"] = ""


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
