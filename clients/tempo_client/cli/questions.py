"""The commands about users' questions: count them, trace them into versions, erase them."""

from typing import Annotated

import typer

from tempo_client.cli.output import Json, connect, field_rows, show

Question = Annotated[str, typer.Argument(help="Its id, its content hash or its text.")]
Tenant = Annotated[str, typer.Argument(help="A hash, as described above.")]

SINCE = "; since the servers started"
MEANINGS = {
    "captured": "kept in the ledger, counted each time that a user asked",
    "distinct": "different questions among the captured ones",
    "streamed": "in Valkey, on the way to the ledger; None: Valkey is down",
    "spooled": "on the servers' disks, on the way to Valkey",
    "skipped": f"answered, not kept: more than text, too long, or a raw prompt{SINCE}",
    "opted_out": f"answered, not kept: the request opted out{SINCE}",
    "dropped": f"answered and lost: no room on disk, or damaged there{SINCE}",
}


def questions(ctx: typer.Context, as_json: Json = False) -> None:
    """Count users' questions by what happened to them."""
    counts = connect(ctx).status().questions
    fields = field_rows(counts, *MEANINGS)
    rows = [(*field, meaning) for field, meaning in zip(fields, MEANINGS.values(), strict=True)]
    show(counts, rows, as_json=as_json)


def learned(ctx: typer.Context, question: Question, as_json: Json = False) -> None:
    """List the versions that learned from a question."""
    answer = connect(ctx).questions.learned(question)
    show(answer, [(adapter,) for adapter in answer.adapters], as_json=as_json)


def erase(ctx: typer.Context, tenant: Tenant, as_json: Json = False) -> None:
    """Erase the questions of a tenant, the users of one key.

    TENANT is the first 16 hex digits of the SHA-256 of the Authorization header that they send.
    The command prints the number of erased questions, and the versions that learned from them;
    these versions stay. Questions on the way to the ledger arrive later: run it once more then.
    """
    answer = connect(ctx).questions.erase(tenant)
    rows = [("erased", answer.erased), *(("learned", adapter) for adapter in answer.adapters)]
    show(answer, rows, as_json=as_json)
