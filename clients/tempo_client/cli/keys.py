"""The commands `tempo keys` and `tempo audit`: keys of the admin API, and who changed what."""

import json
import re
from typing import Annotated

import typer

from tempo_client._operations import DAY_SECONDS
from tempo_client.cli.output import Json, connect, local_time, messages, show
from tempo_client.types import Key

UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
SCOPES = "read|labels:read|labels:write|train|promote|questions|keys"


def seconds(text: str) -> int:
    """Return the seconds of a duration such as 90d; raise BadParameter for another text."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write a number and a unit, as in 90d")
    return int(match[1]) * UNITS[match[2]]


Name = Annotated[str, typer.Argument(help="A name for the key, such as that of its user.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `tempo keys list` shows it.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option(metavar=f"[{SCOPES}]", help="A scope of the key, by default read; repeatable."),
]
Expires = Annotated[
    int | None, typer.Option(metavar="90d", parser=seconds, help="Its life: s, m, h, d or w.")
]
Grace = Annotated[
    int, typer.Option(metavar="24h", parser=seconds, help="The old key still works for so long.")
]
Limit = Annotated[int, typer.Option(min=0, help="Number of the newest ones to list; 0: all.")]

keys = typer.Typer(help="List, create, rotate and revoke admin keys.")


@keys.command("list")
def list_keys(ctx: typer.Context, as_json: Json = False) -> None:
    """List all keys, newest first, with their end and their last use."""
    listed = connect(ctx).keys.list()
    rows = [
        (
            key.id,
            key.name,
            _permissions(key),
            local_time(key.created_at),
            local_time(key.expires_at),
            local_time(key.last_used_at),
        )
        for key in listed
    ]
    columns = ("key", "name", "may", "made", "expires", "last used")
    show(listed, rows, as_json=as_json, columns=columns)


@keys.command()
def create(
    ctx: typer.Context,
    name: Name,
    scope: Scopes = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it; it is never shown again.

    A key without a scope only reads figures. Without --expires it never expires.
    """
    created = connect(ctx).keys.create(name, scopes=scope or ("read",), expires_in_seconds=expires)
    _show_secret(created, as_json=as_json)


@keys.command()
def rotate(
    ctx: typer.Context,
    key_id: KeyId,
    grace: Grace = "24h",  # type: ignore[assignment]  # typer parses it
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Make a key that replaces another one, and print it; it is never shown again.

    The new key has the name and the scopes of the old one, and by default as long a life. The old
    one works for --grace, so that its users can change without a gap.
    """
    created = connect(ctx).keys.rotate(key_id, grace_seconds=grace, expires_in_seconds=expires)
    _show_secret(created, as_json=as_json)
    messages.print(f"{key_id} works for {grace} more seconds")


@keys.command()
def revoke(ctx: typer.Context, key_id: KeyId, as_json: Json = False) -> None:
    """Revoke a key; within seconds no process accepts it."""
    key = connect(ctx).keys.delete(key_id)
    show(key, [("revoked", key.id), ("name", key.name)], as_json=as_json)


def audit(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List who changed what, and from which address, newest first."""
    listed = connect(ctx).audit.list(limit=limit)
    rows = [
        (
            local_time(change.created_at),
            change.actor,
            change.address,
            change.action,
            change.subject,
            f"{json.dumps(change.before)} → {json.dumps(change.after)}",
        )
        for change in listed
    ]
    columns = ("time", "who", "from", "what", "of", "before → after")
    show(listed, rows, as_json=as_json, columns=columns)


def _show_secret(key: Key, *, as_json: bool) -> None:
    show(key, [(key.key,)], as_json=as_json)
    end = f" until {local_time(key.expires_at)}" if key.expires_at else ""
    messages.print(
        f"{key.id} ({key.name}) may {_permissions(key)}{end}; the key will not be shown again"
    )


def _permissions(key: Key) -> str:
    return " and ".join(key.scopes)
