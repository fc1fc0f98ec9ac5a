"""The server's address, its key and the use of proxies, by the environment."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import httpx

from tempo_client.errors import ConfigurationError

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
TRUST_ENV = "TEMPO_TRUST_ENV"
NAMES = ("TEMPO_BASE_URL", "TEMPO_API_KEY", "TEMPO_API_KEY_FILE", "TEMPO_DATA_DIR", TRUST_ENV)
MIN_SIMILARITY = 0.9  # TEMPO_BASE_ULR is a misspelling of one of them, TEMPO_VLLM_API_KEY is not


def find_base_url(environ: Mapping[str, str] = os.environ) -> str:
    """Return TEMPO_BASE_URL, or else the default address on this machine.

    Raises ConfigurationError for a variable whose name is a misspelling of one in NAMES.
    """
    for name in environ:
        is_unknown = name.startswith("TEMPO_") and name not in NAMES
        if is_unknown and (close := get_close_matches(name, NAMES, cutoff=MIN_SIMILARITY)):
            raise ConfigurationError(f"unknown setting {name}; did you mean {close[0]}")
    return as_base_url(environ.get("TEMPO_BASE_URL") or DEFAULT_BASE_URL)


def as_base_url(url: str) -> str:
    """Return a server's address without the `/v1` of its OpenAI routes.

    Raises ConfigurationError where the scheme is missing.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no URL; write http://{url}")
    return url.rstrip("/").removesuffix("/v1")


def find_api_key(environ: Mapping[str, str] = os.environ) -> str:
    """Return TEMPO_API_KEY, else the key in TEMPO_API_KEY_FILE, else the data directory's.

    Raises ConfigurationError when the file of the key is empty or cannot be read.
    """
    if key := environ.get("TEMPO_API_KEY", "").strip():
        return key
    data_dir = Path(environ.get("TEMPO_DATA_DIR") or "~/.tempo").expanduser()
    path = Path(environ.get("TEMPO_API_KEY_FILE") or data_dir / "admin.key").expanduser()
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"no API key: {path} cannot be read ({error.strerror}); a server writes this file when "
            "it first starts; for a server on another machine set TEMPO_API_KEY or "
            "TEMPO_API_KEY_FILE, or pass api_key"
        ) from error
    if not key:
        raise ConfigurationError(f"no API key: {path} is empty; write the key into it")
    return key


def trusts_environment(
    url: str, allowed: bool | None = None, environ: Mapping[str, str] = os.environ
) -> bool:
    """Tell whether httpx may take proxies and certificates for a server from the environment.

    It must be `allowed`, by default by TEMPO_TRUST_ENV, because a proxy sees the key of plain HTTP.
    A server on this machine is never behind a proxy.
    """
    if allowed is None:
        allowed = environ.get(TRUST_ENV, "").strip().lower() in {"1", "true", "yes", "on", "t", "y"}
    return allowed and not _is_local(httpx.URL(url).host)


def _is_local(host: str) -> bool:
    """Tell whether a name or address leads to this machine."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    addresses = map(ipaddress.ip_address, found)
    return any(address.is_loopback or address.is_unspecified for address in addresses)
