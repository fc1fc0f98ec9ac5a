"""The commands about users' questions: count them, trace them into versions, erase them.

Also the commands about tenants, who ask them.
"""

from typing import Annotated

import typer

from tempo_client import Tempo
from tempo_client.cli.output import Json, connect, fail, field_rows, local_time, messages, show
from tempo_client.types import Tenant

Question = Annotated[str, typer.Argument(help="Its id, its content hash or its text.")]
TenantId = Annotated[
    str | None, typer.Argument(metavar="[TENANT]", help="Its id, or the first digits of it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ID_DIGITS = 16

SINCE = "; since the servers started"
MEANINGS = {
    "captured": "kept in the ledger, counted each time that a user asked",
    "distinct": "different questions among the captured ones",
    "streamed": "in Valkey, on the way to the ledger; None: Valkey is down",
    "spooled": "on the servers' disks, on the way to Valkey",
    "skipped": f"answered, not kept: more than text, too long, or a raw prompt{SINCE}",
    "opted_out": f"answered, not kept: the request opted out{SINCE}",
    "dropped": f"answered and lost: no room on disk, or damaged there{SINCE}",
    "over_limit": f"answered, not kept: its tenant asked too many in a minute{SINCE}",
    "unstorable": "set aside in the ledger, because it cannot store them",
    "stalled": "True: questions wait in Valkey, and none has moved for a minute",
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
    if not answer.adapters:
        messages.print("none: no version learned from this question")


def erase(
    ctx: typer.Context, tenant: TenantId = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Erase the questions of a tenant.

    Without TENANT the command lists the tenants with their numbers of questions. The users of a key
    that vLLM checks are a tenant, and its id is the beginning of the SHA-256 of "Bearer KEY". All
    requests that name no tenant are of the tenant `anonymous`.

    The command asks before it erases. Then it prints the number of erased questions, the versions
    that learned from them, and where text may remain. These versions stay; if one of them serves,
    the command offers to roll back to a version that did not learn from the questions.
    """
    tempo = connect(ctx)
    tenants = tempo.questions.tenants()
    if tenant is None:
        return _show_tenants(tenants, as_json=as_json)
    row = _matching(tenants, tenant)
    if not yes:
        typer.confirm(f"erase {row.questions} questions of {row.id}?", abort=True, err=True)
    answer = tempo.questions.erase(row.id)
    rows = [("erased", answer.erased), *(("learned", adapter) for adapter in answer.adapters)]
    rows += [("remains", place) for place in answer.remains]
    show(answer, rows, as_json=as_json)
    if answer.rollback_to and not as_json:
        _offer_rollback(tempo, answer.rollback_to, ask=not yes)


def _offer_rollback(tempo: Tempo, target: str, *, ask: bool) -> None:
    """Roll back to a version that did not learn from the erased questions, if the user agrees."""
    messages.print(f"a version that learned from them serves; {target} did not learn from them")
    if ask and typer.confirm(f"roll back to {target}?", err=True):
        tempo.adapters.rollback(target, reason="questions were erased")
        messages.print(f"{target} serves")
    else:
        messages.print(f"tempo adapters rollback {target}")


def admit(ctx: typer.Context, tenant: TenantId = None, as_json: Json = False) -> None:
    """Let training learn from the questions of a new tenant.

    Without TENANT the command lists the tenants. A new tenant is in quarantine if the worker has
    the setting TEMPO_TENANT_QUARANTINE.
    """
    tempo = connect(ctx)
    tenants = tempo.questions.tenants()
    if tenant is None:
        return _show_tenants(tenants, as_json=as_json)
    row = tempo.questions.admit(_matching(tenants, tenant).id)
    show(row, [("admitted", row.id)], as_json=as_json)


def _show_tenants(tenants: list[Tenant], *, as_json: bool) -> None:
    rows = [(t.id, t.questions, local_time(t.last_asked_at), t.quarantined) for t in tenants]
    columns = ("tenant", "questions", "last asked", "quarantined")
    show(tenants, rows, as_json=as_json, columns=columns)
    if not tenants:
        messages.print("no question is in the ledger")


def _matching(tenants: list[Tenant], key_id: str) -> Tenant:
    """Return the only tenant whose id begins so; fail where none or several do."""
    matches = [tenant for tenant in tenants if tenant.id.startswith(key_id.lower())]
    if len(matches) == 1:
        return matches[0]
    if len(key_id) == ID_DIGITS and not matches:  # it may have learned questions only
        return Tenant(id=key_id.lower())
    ids = f"the ids of {len(matches)} tenants begin" if matches else "no tenant's id begins"
    fail(f"{ids} with {key_id}; `tempo erase` lists them")
