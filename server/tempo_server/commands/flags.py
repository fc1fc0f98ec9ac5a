"""Read the flags of `vllm serve`.

Each process of vLLM imports this module, so it imports nothing that takes time.
"""

from collections.abc import Sequence

DEFAULT_HOST = "127.0.0.1"
INSECURE = "--insecure-public"  # ours alone: vLLM never sees it


def flag_value(flag: str, arguments: Sequence[str]) -> str | None:
    """Return the value that vLLM reads for a flag: "" if it stands alone, None if it is absent."""
    last = None
    for position, part in enumerate(arguments):
        name, equals, value = part.partition("=")
        if name.replace("_", "-") == flag:
            last = value if equals else "".join(arguments[position + 1 : position + 2])
    return last


def bound_host(arguments: Sequence[str]) -> str:
    """Return the address on which vLLM will listen: this machine's own, unless --host is given."""
    host = flag_value("--host", arguments)
    return DEFAULT_HOST if host is None else host or "0.0.0.0"


def reachable_host(host: str) -> str:
    """Return the address at which this machine itself reaches a server that listens on `host`."""
    return {"0.0.0.0": DEFAULT_HOST, "::": "::1"}.get(host, host)


def http_url(host: str, port: int) -> str:
    """Return the URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
