"""The commands about what users asked: what became of it, who learned from it, and its end."""

from typing import Annotated

import typer

from tempo_client.cli.output import Json, connect, rows_of, show

SINCE = "; since the servers started"
MEANINGS = {
    "captured": "kept in the ledger, each time that it was asked",
    "distinct": "different questions among them",
    "streamed": "in Valkey, on the way to the ledger; None: Valkey is down",
    "spooled": "on the servers' disks, on the way to Valkey",
    "skipped": f"answered, not kept: more than text, too long, or a raw prompt{SINCE}",
    "opted out": f"answered, not kept: the request said so{SINCE}",
    "dropped": f"answered and lost: no room on disk, or damaged there{SINCE}",
}


def questions(ctx: typer.Context, as_json: Json = False) -> None:
    """Count what users asked and what became of it."""
    found = connect(ctx).status().questions
    rows = [(name, count, MEANINGS[name]) for name, count in rows_of(found)]
    show(found, rows, as_json=as_json)


def learned(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="Its id, its content hash or its text.")],
    as_json: Json = False,
) -> None:
    """List the versions that learned from a question."""
    found = connect(ctx).questions.learned(question)
    show(found, [(adapter,) for adapter in found.adapters], as_json=as_json)


def erase(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The hash of its key.")],
    as_json: Json = False,
) -> None:
    """Erase a tenant's questions; list the versions that learned from them."""
    found = connect(ctx).questions.erase(tenant)
    rows = [("erased", found.erased), *(("learned", adapter) for adapter in found.adapters)]
    show(found, rows, as_json=as_json)
