"""Versions in the form of OpenAI's models, so that its clients can list, show and delete them."""

import contextlib

from fastapi import APIRouter

from tempo_server.admin.route import CurrentContext, KeyRoute, needs
from tempo_server.admin.schemas import Deletion, Model, Page
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.adapters import version_name, version_of
from tempo_storage.errors import NotFoundError

router = APIRouter(route_class=KeyRoute)


@router.get("/models", **needs("read"))
def list_models(context: CurrentContext) -> Page[Model]:
    """List the versions whose files are there, newest first; the base is the last one."""
    return Page(data=_models(context), has_more=False)


@router.get("/models/{model}", **needs("read", 404))
def get_model(context: CurrentContext, model: str) -> Model:
    """Show a version whose files are there."""
    for candidate in _models(context):
        if candidate.id == model:
            return candidate
    raise NotFoundError(f"there is no model {model!r}; `tempo adapters list` lists the versions")


@router.delete("/models/{model}", **needs("promote", 404, 409))
def delete_model(context: CurrentContext, model: str) -> Deletion:
    """Delete a version's files; its row stays, and it can never serve again.

    A version that serves, to which a rollback may return, or that a server process still holds is
    not deleted.
    """
    version = version_of(model)
    name = version_name(version)
    with context.sessions.begin() as s:
        ledger.versions.sweep(s, version, reason="deleted by request")
    with contextlib.suppress(NotFoundError):  # an earlier request, or the trainer, deleted it
        context.store.remove(name)
    return Deletion(id=name, object="model")


def _models(context: Context) -> list[Model]:
    with context.sessions() as s:
        rows = [row for row in ledger.versions.adapters(s) if not row.swept]
        return [*map(Model.model_validate, rows), Model.model_validate({"version": 0})]
