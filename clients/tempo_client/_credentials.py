"""Where the server is and which key opens it, when the caller does not say."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from tempo_client.errors import ConfigurationError

NAMES = ("TEMPO_BASE_URL", "TEMPO_API_KEY", "TEMPO_API_KEY_FILE", "TEMPO_DATA_DIR")
ALIKE = 0.9  # TEMPO_BASE_ULR is meant to be one of them, TEMPO_VLLM_API_KEY is not


def find_base_url(environ: Mapping[str, str] = os.environ) -> str:
    """Return TEMPO_BASE_URL, or a server on this machine.

    Raises ConfigurationError for a variable that is all but named like one that is read here.
    """
    for name in environ:
        ours = name.startswith("TEMPO_") and name not in NAMES
        if ours and (meant := get_close_matches(name, NAMES, cutoff=ALIKE)):
            raise ConfigurationError(f"unknown setting {name}; did you mean {meant[0]}")
    return as_base_url(environ.get("TEMPO_BASE_URL") or "http://127.0.0.1:8000")


def as_base_url(url: str) -> str:
    """Return the server's own address where that of its /v1 was given; refuse what is no URL."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no URL; write http://{url}")
    return url.rstrip("/").removesuffix("/v1")


def find_api_key(environ: Mapping[str, str] = os.environ) -> str:
    """Return TEMPO_API_KEY, else the key in TEMPO_API_KEY_FILE, else the data directory's.

    Raises ConfigurationError when there is none, or when its file cannot be read.
    """
    if key := environ.get("TEMPO_API_KEY", "").strip():
        return key
    data_dir = Path(environ.get("TEMPO_DATA_DIR") or "~/.tempo").expanduser()
    path = Path(environ.get("TEMPO_API_KEY_FILE") or data_dir / "admin.key").expanduser()
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"no API key: {path} cannot be read ({error.strerror}); the server makes it at its "
            "first start; elsewhere pass api_key, or set TEMPO_API_KEY or TEMPO_API_KEY_FILE"
        ) from error
    if not key:
        raise ConfigurationError(f"no API key: {path} is empty; put the key into it")
    return key
