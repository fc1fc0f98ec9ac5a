"""The command `tempo keys`: list, create and revoke keys of the admin API."""

from typing import Annotated

import typer

from tempo_client.cli.output import Json, connect, local_time, messages, show
from tempo_client.types import Key

Name = Annotated[str, typer.Argument(help="A name for the key, such as that of its user.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `tempo keys list` shows it.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option(metavar="[train|promote]", help="Allow this too; may be repeated."),
]

keys = typer.Typer(help="List, create and revoke admin keys.")


@keys.command("list")
def list_keys(ctx: typer.Context, as_json: Json = False) -> None:
    """List all keys, newest first."""
    listed = connect(ctx).keys.list()
    rows = [(key.id, key.name, _permissions(key), local_time(key.created_at)) for key in listed]
    show(listed, rows, as_json=as_json, columns=("key", "name", "may", "made"))


@keys.command()
def create(ctx: typer.Context, name: Name, scope: Scopes = None, as_json: Json = False) -> None:
    """Make a key and print it; it is never shown again.

    A key without a scope only reads.
    """
    key = connect(ctx).keys.create(name, scopes=scope or ())
    show(key, [(key.key,)], as_json=as_json)
    messages.print(f"{key.id} ({name}) may {_permissions(key)}; the key will not be shown again")


@keys.command()
def revoke(ctx: typer.Context, key_id: KeyId, as_json: Json = False) -> None:
    """Revoke a key; within seconds no process accepts it."""
    key = connect(ctx).keys.delete(key_id)
    show(key, [("revoked", key.id), ("name", key.name)], as_json=as_json)


def _permissions(key: Key) -> str:
    return " and ".join(("read", *key.scopes))
