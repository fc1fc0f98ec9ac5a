"""Labels, the labeled questions one by one: list, mend and remove them; verify responses to them.

A label's id is its question's content hash. A beginning of it that no other label shares is enough.
"""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from tempo_server.admin import references
from tempo_server.admin.held_out import require_held_out
from tempo_server.admin.route import CallersKey, CurrentContext, KeyRoute, Paging, needs
from tempo_server.admin.schemas import Body, Deletion, Json, Page, Resource, Row, Text
from tempo_server.admin.slots import LONG_WORK
from tempo_server.keys import check_scope
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.file import parse
from tempo_storage.labeled.line import CHOICE

MAX_LABELS = 100  # of a request for verdicts
MAX_RESPONSES = 64

router = APIRouter(route_class=KeyRoute)


class LabelPaging(Paging):
    """The page of a list of labels, and the split and the file whose labels it has.

    Without `held_out` it has no held-out labels.
    """

    split: Literal["train", "held_out"] | None = None
    file: Text | None = None
    held_out: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose labels are listed."""
        if self.split is not None:
            return (self.split,)
        return ("train", "held_out") if self.held_out else ("train",)


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
    """Responses to labeled questions, by the label's id; held-out ones only with `held_out`."""

    responses: Annotated[dict[Text, Responses], Field(max_length=MAX_LABELS)]
    held_out: bool = False


class Verdicts(Row):
    """For each response of a request whether it is right; null where its verifier failed."""

    object: Literal["verdicts"] = "verdicts"
    verdicts: dict[str, list[bool | None]]


@router.get("/labels", **needs("labels:read"))
def list_labels(context: CurrentContext, paging: Annotated[LabelPaging, Query()]) -> Page[Label]:
    """List the labels by their ids."""
    if paging.split == "held_out":
        require_held_out(paging.held_out, "this split has held-out answers")
    with context.sessions() as s:
        rows = ledger.labeled.page(
            s,
            after=paging.after or "",
            limit=paging.limit + 1,
            splits=paging.splits,
            file_id=paging.file,
        )
    return paging.cut([Label.model_validate(row) for row in rows])


@router.put(
    "/labels/{label_id}", dependencies=[LONG_WORK], **needs("labels:write", 404, 408, 413, 429)
)
def replace_label(
    context: CurrentContext, key: CallersKey, label_id: str, body: LabelRequest
) -> Label:
    """Replace the answer to a question; the question keeps its split.

    The reply has the question. So the key needs the scope `labels:read`, too.
    """
    with context.sessions() as s:
        label = Label.model_validate(ledger.labeled.example(s, label_id))
    check_scope(context, key, "labels:read")
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
        ledger.labeled.replace(s, row, reference=example.reference, verifier=example.verifier)
        return Label.model_validate(row)


@router.delete("/labels/{label_id}", **needs("labels:write", 404))
def remove_label(context: CurrentContext, label_id: str) -> Deletion:
    """Remove a label; nothing trains on it or is measured by it any more."""
    with context.sessions.begin() as s:
        row = ledger.labeled.example(s, label_id)
        files = ledger.labeled.files_with(s, row.content_hash)
        versions = ledger.learned.versions_from_files(s, files)
        ledger.labeled.remove(s, row)
    adapters = [version_name(version) for version in versions]
    return Deletion(id=row.content_hash, object="label", examples=1, adapters=adapters)


@router.post(
    "/labels/verdicts", dependencies=[LONG_WORK], **needs("labels:read", 404, 408, 413, 429)
)
def verify_responses(context: CurrentContext, body: VerdictRequest) -> Verdicts:
    """Verify responses to labeled questions, each by the verifier of its label."""
    with context.sessions() as s:
        rows = {label_id: ledger.labeled.example(s, label_id) for label_id in body.responses}
    for label_id, row in rows.items():
        if row.split == "held_out":
            require_held_out(body.held_out, f"{label_id} is one of the held-out labels")
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
