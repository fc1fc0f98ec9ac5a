"""Labels, the labeled questions one by one: list, mend and remove them; verify responses to them.

A label's id is its question's content hash. A beginning of it that no other label shares is enough.
"""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from tempo_server.admin import references
from tempo_server.admin.route import CurrentContext, KeyRoute, Paging
from tempo_server.admin.schemas import Body, Deletion, Json, Page, Resource, Row, Text
from tempo_server.admin.slots import LONG_WORK
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.file import parse
from tempo_storage.labeled.line import CHOICE

MAX_LABELS = 100  # of a request for verdicts
MAX_RESPONSES = 64

router = APIRouter(route_class=KeyRoute)


class LabelPaging(Paging):
    """The page of a list of labels, and the split and the file whose labels it has."""

    split: Literal["train", "held_out"] | None = None
    file: str | None = None


class Label(Resource):
    """A labeled question. Without `id`, `object` and `split` it is a line of a labeled file."""

    object: Literal["label"] = "label"
    id: str = Field(validation_alias="content_hash")
    split: str
    messages: list[Json]
    reference_answer: list[Any] = Field(validation_alias="reference")
    verifier: str
    metadata: Json = Field(validation_alias="details")
    chat_template_kwargs: Json


class LabelRequest(Body):
    """The right answer, or a list of answers that are equally right; by default the same verifier.

    The answer of a choice may also be the text of the right option.
    """

    answer: Any
    verifier: Text | None = None


Responses = Annotated[list[str], Field(max_length=MAX_RESPONSES)]


class VerdictRequest(Body):
    """Responses to labeled questions, by the label's id."""

    responses: Annotated[dict[str, Responses], Field(max_length=MAX_LABELS)]


class Verdicts(Row):
    """For each response of a request whether it is right; null where its verifier failed."""

    object: Literal["verdicts"] = "verdicts"
    verdicts: dict[str, list[bool | None]]


@router.get("/labels")
def list_labels(context: CurrentContext, paging: Annotated[LabelPaging, Query()]) -> Page[Label]:
    """List the labels by their ids."""
    with context.sessions() as s:
        rows = ledger.labeled.page(
            s,
            after=paging.after or "",
            limit=paging.limit + 1,
            split=paging.split,
            file_id=paging.file,
        )
        labels = [Label.model_validate(row) for row in rows[: paging.limit]]
    return Page(data=labels, has_more=len(rows) > paging.limit)


@router.put("/labels/{label_id}", dependencies=[LONG_WORK])
def replace_label(context: CurrentContext, label_id: str, body: LabelRequest) -> Label:
    """Replace the answer to a question; the question keeps its split."""
    with context.sessions() as s:
        label = Label.model_validate(ledger.labeled.example(s, label_id))
    line = label.model_dump(exclude={"id", "object", "split"}) | {"reference_answer": body.answer}
    line["verifier"] = body.verifier or label.verifier
    if line["verifier"] == CHOICE:
        line["options"] = label.metadata.get("options")
    parsed = parse(json.dumps(line).encode(), references.installed())
    for error in (*parsed.errors, *references.check(parsed.examples)):
        raise InvalidInputError(f"the answer cannot be used: {error.place}{error.message}")
    (example,) = parsed.examples
    with context.sessions.begin() as s:
        row = ledger.labeled.example(s, label.id)
        row.reference = example.reference
        row.verifier = example.verifier
        ledger.events.add(s, "label.replaced", f"the answer of label {label.id} was replaced")
        return Label.model_validate(row)


@router.delete("/labels/{label_id}")
def remove_label(context: CurrentContext, label_id: str) -> Deletion:
    """Remove a label; nothing trains on it or is measured by it any more."""
    with context.sessions.begin() as s:
        row = ledger.labeled.example(s, label_id)
        files = ledger.labeled.files_with(s, row.content_hash)
        versions = ledger.learned.versions_from_files(s, files)
        s.delete(row)
        ledger.events.add(s, "label.removed", f"label {row.content_hash} was removed")
    adapters = [version_name(version) for version in versions]
    return Deletion(id=row.content_hash, object="label", examples=1, adapters=adapters)


@router.post("/labels/verdicts", dependencies=[LONG_WORK])
def verify_responses(context: CurrentContext, body: VerdictRequest) -> Verdicts:
    """Verify responses to labeled questions, each by the verifier of its label."""
    with context.sessions() as s:
        rows = {label_id: ledger.labeled.example(s, label_id) for label_id in body.responses}
    items = [
        {
            "verifier": rows[label_id].verifier,
            "response": response,
            "reference": rows[label_id].reference,
            "metadata": rows[label_id].details,
        }
        for label_id, responses in body.responses.items()
        for response in responses
    ]
    correct = iter([None if v is None else v["correct"] for v in references.verify(items)])
    verdicts = {id: [next(correct) for _ in texts] for id, texts in body.responses.items()}
    return Verdicts(verdicts=verdicts)
