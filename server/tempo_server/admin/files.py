"""Upload labeled questions: a file is checked whole, then stored whole, on disk and in SQL.

The steps of the check are those of `tempo_storage.labeled.file`; each returns a value.
"""

import contextlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from tempo_server.admin import references
from tempo_server.admin.held_out import HeldOut, require_held_out
from tempo_server.admin.route import CurrentContext, FilePageQuery, KeyRoute, needs
from tempo_server.admin.schemas import Deletion, File, LabeledCounts, Page, Upload
from tempo_server.admin.slots import LONG_WORK
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.directories import fsync
from tempo_storage.errors import NotFoundError
from tempo_storage.labeled.file import (
    MAX_FILE_BYTES,
    MIN_EXAMPLES,
    ParsedFile,
    parse,
    raise_if_unusable,
    reconcile,
)
from tempo_storage.ledger import models as rows

router = APIRouter(route_class=KeyRoute)


@router.post("/files", dependencies=[LONG_WORK], **needs("labels:write", 408, 413, 429, 507))
def create_file(
    context: CurrentContext, form: Annotated[Upload, Form(media_type="multipart/form-data")]
) -> File:
    """Store a labeled file. If all of it is stored already, return the file of the same bytes.

    A dry run checks everything and stores nothing.
    """
    content = form.file.file.read(MAX_FILE_BYTES + 1)
    parsed = parse(content, references.installed())
    with context.sessions() as s:
        new = _without_stored(s, parsed)
        same = next(iter(ledger.labeled.files(s, sha256=parsed.sha256)), None)
        if same is not None and not new.examples and not new.errors:
            labeled = LabeledCounts.of(**ledger.labeled.count(s))
            return _with_counts(File.model_validate(same), labeled)
    errors = references.check(new.examples)
    checked = replace(parsed, errors=(*parsed.errors, *errors))
    row = rows.File(
        id="file-dry-run" if form.dry_run else f"file-{secrets.token_hex(12)}",
        filename=(form.file.filename or "labeled.jsonl")[-255:],
        bytes=checked.bytes,
        sha256=checked.sha256,
        created_at=time.time(),
    )
    if form.dry_run or checked.errors:  # with errors it raises here, before anything is written
        with context.sessions() as s:
            usable = _usable(s, checked)
            labeled = _describe(s, row, usable)
    else:
        labeled = _store(context, row, checked, content)
    return _with_counts(File.model_validate(row), labeled)


@router.get("/files", **needs("labels:read", 404))
def list_files(context: CurrentContext, paging: FilePageQuery) -> Page[File]:
    """List the files, newest first unless `order` is asc."""
    with context.sessions() as s:
        files = [_without_examples(row) for row in ledger.labeled.files(s)]
    files = [file for file in files if paging.purpose in (None, file.purpose)]
    return paging.page(files[::-1] if paging.order == "asc" else files)


@router.get("/files/{file_id}", **needs("labels:read", 404))
def get_file(context: CurrentContext, file_id: str) -> File:
    """Show one file."""
    with context.sessions() as s:
        return _without_examples(ledger.labeled.file(s, file_id))


@router.delete("/files/{file_id}", **needs("labels:write", 404))
def delete_file(context: CurrentContext, file_id: str) -> Deletion:
    """Delete a file with its examples, except those that another file labels, too.

    Nothing trains on them or is measured by them any more, but a step under way ends with them.
    """
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        row, examples = ledger.labeled.delete_file(s, file_id)
        versions = ledger.learned.versions_from_files(s, [row])
        message = f"file {row.id} ({row.filename}) was deleted with {examples} labeled questions"
        ledger.events.add(s, "file.deleted", message, data={"file": row.id, "versions": versions})
    (context.settings.files_dir / row.id).unlink(missing_ok=True)
    adapters = [version_name(version) for version in versions]
    return Deletion(id=row.id, object="file", examples=examples, adapters=adapters)


@router.get("/files/{file_id}/content", response_class=FileResponse, **needs("labels:read", 404))
def get_file_content(
    context: CurrentContext, file_id: str, held_out: HeldOut = False
) -> FileResponse:
    """Return a file as it was uploaded. It has held-out answers, so it needs `held_out=true`."""
    require_held_out(held_out, f"{file_id} has held-out answers")
    row = get_file(context, file_id)
    path = context.settings.files_dir / row.id
    if not path.is_file():
        raise NotFoundError(f"{path} is gone; its examples are in the ledger still")
    return FileResponse(path, media_type="application/octet-stream", filename=row.filename)


def _without_examples(row: rows.File) -> File:
    """Return a file without the examples in its summary: some of them are held out."""
    file = File.model_validate(row)
    verifiers = [verifier | {"examples": []} for verifier in file.tempo.verifiers]
    return file.model_copy(update={"tempo": file.tempo.model_copy(update={"verifiers": verifiers})})


def _store(context: Context, row: rows.File, checked: ParsedFile, content: bytes) -> LabeledCounts:
    """Write the file to disk, and the file and its new examples to the ledger."""
    path = context.settings.files_dir / row.id
    with _file_on_disk(path, content), context.sessions.begin() as s:
        ledger.training.lock(s)
        usable = _usable(s, checked)
        labeled = _describe(s, row, usable)
        hashes = [example.content_hash for example in checked.examples]
        ledger.labeled.add_file(s, row, usable.examples, hashes)
    return labeled


def _describe(s: Session, row: rows.File, usable: ParsedFile) -> LabeledCounts:
    """Write the file's own counts into its row; return the counts after this upload."""
    splits = ledger.labeled.splits_of_new(s, usable.examples)
    new = Counter(splits.values())
    row.summary = usable.summary() | {"held_out": new["held_out"]}
    stored = ledger.labeled.count(s)
    return LabeledCounts.of(**{split: count + new[split] for split, count in stored.items()})


def _with_counts(file: File, labeled: LabeledCounts) -> File:
    """Return the file with the counts of all examples."""
    details = file.tempo.model_copy(update={"labeled": labeled})
    return file.model_copy(update={"tempo": details})


def _usable(s: Session, checked: ParsedFile) -> ParsedFile:
    """Return the file without the examples of the ledger; raise LabeledFileError for errors."""
    usable = _without_stored(s, checked)
    raise_if_unusable(usable, min_questions=MIN_EXAMPLES)
    return usable


def _without_stored(s: Session, parsed: ParsedFile) -> ParsedFile:
    """Return the file without the examples of the ledger."""
    stored = ledger.labeled.references(s, [e.content_hash for e in parsed.examples])
    asked_hashes = ledger.pool.asked_hashes(s, [e.loose_hash for e in parsed.examples])
    return reconcile(parsed, stored, asked_hashes)


@contextlib.contextmanager
def _file_on_disk(path: Path, content: bytes) -> Iterator[None]:
    """Write a file that survives a power cut; delete it if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fsync(path.parent)
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
