"""Upload labeled questions: a file is checked whole, then stored whole, on disk and in SQL."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi import File as FormFile
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from tempo_server.admin import references
from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery
from tempo_server.admin.schemas import File, Page
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.directories import fsync
from tempo_storage.errors import NotFoundError
from tempo_storage.labeled.file import Labeled, parse
from tempo_storage.ledger import models as rows

router = APIRouter(route_class=KeyRoute)


@router.post("/files")
def create_file(
    context: CurrentContext,
    file: Annotated[UploadFile, FormFile()],
    purpose: Annotated[Literal["fine-tune"], Form()] = "fine-tune",
    dry_run: Annotated[bool, Form()] = False,
) -> File:
    """Store a labeled file; one that is stored already, byte for byte, is answered as it is.

    A dry run checks everything and stores nothing.
    """
    labeled = parse(file.file, references.installed())
    if (same := _same_file(context, labeled.sha256)) is not None:
        return File.model_validate(same)
    labeled.errors += references.check(list(labeled.examples.values()))
    labeled.raise_errors()
    labeled.raise_if_few()
    row = rows.File(
        id="file-dry-run" if dry_run else f"file-{secrets.token_hex(12)}",
        filename=(file.filename or "labeled.jsonl")[-255:],
        bytes=labeled.bytes,
        sha256=labeled.sha256,
        created_at=time.time(),
    )
    if dry_run:
        with context.sessions.begin() as s:
            _settle(s, row, labeled)
    else:
        _store(context, row, labeled, file.file)
    return File.model_validate(row)


@router.get("/files")
def list_files(context: CurrentContext, paging: PageQuery) -> Page[File]:
    """List the files, newest first."""
    with context.sessions() as s:
        return paging.page([File.model_validate(row) for row in ledger.labeled.files(s)])


@router.get("/files/{file_id}")
def get_file(context: CurrentContext, file_id: str) -> File:
    """Show one file."""
    with context.sessions() as s:
        return File.model_validate(ledger.labeled.file(s, file_id))


@router.get("/files/{file_id}/content")
def get_file_content(context: CurrentContext, file_id: str) -> FileResponse:
    """Return a file as it was uploaded."""
    row = get_file(context, file_id)
    path = context.settings.files_dir / row.id
    if not path.is_file():
        raise NotFoundError(f"{path} is gone; its examples are in the ledger still")
    return FileResponse(path, media_type="application/octet-stream", filename=row.filename)


def _store(context: Context, row: rows.File, labeled: Labeled, content: BinaryIO) -> None:
    path = context.settings.files_dir / row.id
    with _kept(path, content), context.sessions.begin() as s:
        ledger.training.lock(s)
        _settle(s, row, labeled)
        ledger.labeled.add_file(s, row, labeled.examples.values())


def _settle(s: Session, row: rows.File, labeled: Labeled) -> None:
    """Compare a file with what is stored, and sum up."""
    labeled.drop_stored(ledger.labeled.references(s, list(labeled.examples)))
    labeled.raise_errors()
    labeled.note_asked(ledger.pool.asked_hashes(s, list(labeled.examples)))
    row.summary = labeled.summary()


def _same_file(context: Context, sha256: str) -> rows.File | None:
    with context.sessions() as s:
        return next((row for row in ledger.labeled.files(s) if row.sha256 == sha256), None)


@contextlib.contextmanager
def _kept(path: Path, content: BinaryIO) -> Iterator[None]:
    """Keep `content` at `path`, safe from a power cut, unless the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            content.seek(0)
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        fsync(path.parent)
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
