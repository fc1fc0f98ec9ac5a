"""Refuse a port that other machines can reach without a users' key."""

from collections.abc import Sequence

from tempo_server.commands.checks import CheckError
from tempo_server.commands.flags import INSECURE, bound_host, flag_value
from tempo_server.front import REMEDY, is_loopback


def users_key(arguments: Sequence[str], default: str) -> str:
    """Return the key that users will have to send: that of --api-key, or else the default.

    Raises CheckError for an empty --api-key, which vLLM would take for no key.
    """
    key = flag_value("--api-key", arguments)
    if key is not None and not key.strip():
        raise CheckError("--api-key is empty; give a key, or leave the flag out")
    return default.strip() if key is None else key


def check_exposure(arguments: Sequence[str], default_key: str) -> None:
    """Raise CheckError if others could reach the port and would need no key."""
    host = bound_host(arguments)
    has_key = bool(users_key(arguments, default_key))
    on_socket = bool(flag_value("--uds", arguments))
    is_allowed = flag_value(INSECURE, arguments) is not None
    if has_key or on_socket or is_allowed or is_loopback(host):
        return
    raise CheckError(
        f"--host {host} lets other machines use the model without a key; {REMEDY}; "
        f"{INSECURE} allows it"
    )
