"""The command `tempo keys`: who may use the admin API, and what for."""

from typing import Annotated

import typer

from tempo_client.cli.output import Json, clock, connect, show, story
from tempo_client.types import Key

keys = typer.Typer(help="List, create and revoke admin keys.")


@keys.command("list")
def list_keys(ctx: typer.Context, as_json: Json = False) -> None:
    """List all keys, newest first."""
    found = connect(ctx).keys.list()
    rows = [(key.id, key.name, _allowed(key), clock(key.created_at)) for key in found]
    show(found, rows, as_json=as_json, columns=("key", "name", "may", "made"))


@keys.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="[train|promote]", help="May be repeated; without it it only reads."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    made = connect(ctx).keys.create(name, scopes=scope or ())
    show(made, [(made.key,)], as_json=as_json)
    story.print(f"{made.id} ({name}) may {_allowed(made)}; the key will not be shown again")


@keys.command()
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `tempo keys list` shows it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key: within seconds no process knows it."""
    gone = connect(ctx).keys.delete(key_id)
    show(gone, [("revoked", gone.id), ("name", gone.name)], as_json=as_json)


def _allowed(key: Key) -> str:
    return " and ".join(("read", *key.scopes))
