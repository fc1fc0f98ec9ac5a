"""Upload labeled questions: a file is checked whole, then stored whole, on disk and in SQL."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi import File as FormFile
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from tempo_server import references
from tempo_server.context import Context
from tempo_server.labeled import Labeled, parse
from tempo_server.routing import Current, Limit, page
from tempo_server.schemas import File, Page
from tempo_storage import models as rows
from tempo_storage import pool, queries
from tempo_storage.errors import NotFoundError

CHUNK_BYTES = 1 << 20
DRY_RUN_ID = "file-dry-run"


def add_routes(router: APIRouter) -> None:
    """Add the routes of files."""
    router.post("/files")(create_file)
    router.get("/files")(list_files)
    router.get("/files/{file_id}")(get_file)
    router.get("/files/{file_id}/content")(get_file_content)


def create_file(
    context: Current,
    file: Annotated[UploadFile, FormFile()],
    purpose: Annotated[Literal["fine-tune"], Form()] = "fine-tune",
    dry_run: Annotated[bool, Form()] = False,
) -> File:
    """Store a labeled file; one that is stored already, byte for byte, is answered as it is.

    A dry run checks everything and stores nothing.
    """
    labeled = parse(file.file, references.installed())
    if (same := _same_file(context, labeled.sha256)) is not None:
        return File.of(same)
    labeled.errors += references.check(list(labeled.examples.values()))
    labeled.raise_errors()
    labeled.raise_if_few()
    row = rows.File(
        id=DRY_RUN_ID if dry_run else f"file-{secrets.token_hex(12)}",
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
    return File.of(row)


def list_files(context: Current, after: str | None = None, limit: Limit = 20) -> Page[File]:
    """List the files, newest first."""
    with context.sessions.begin() as s:
        found = queries.files(s)
    return page(found, after=after, limit=limit, key=lambda row: row.id, show=File.of)


def get_file(context: Current, file_id: str) -> File:
    """Show one file."""
    with context.sessions.begin() as s:
        return File.of(queries.file(s, file_id))


def get_file_content(context: Current, file_id: str) -> FileResponse:
    """Return a file as it was uploaded."""
    row = get_file(context, file_id)
    path = context.settings.files_dir / row.id
    if not path.is_file():
        raise NotFoundError(f"{path} is gone; its examples are in the ledger still")
    return FileResponse(path, media_type="application/octet-stream", filename=row.filename)


def _store(context: Context, row: rows.File, labeled: Labeled, content: BinaryIO) -> None:
    path = context.settings.files_dir / row.id
    with _kept(path, content), context.sessions.begin() as s:
        s.get_one(rows.Training, 1, with_for_update=True)  # one upload at a time
        _settle(s, row, labeled)
        queries.add_file(s, row, _examples(row, labeled))


def _settle(s: Session, row: rows.File, labeled: Labeled) -> None:
    """Compare a file with what is stored, and sum up."""
    labeled.drop_stored(queries.known_references(s, list(labeled.examples)))
    labeled.raise_errors()
    labeled.note_asked(pool.asked(s, list(labeled.examples)))
    row.summary = labeled.summary()


def _same_file(context: Context, sha256: str) -> rows.File | None:
    with context.sessions.begin() as s:
        return next((row for row in queries.files(s) if row.sha256 == sha256), None)


def _examples(row: rows.File, labeled: Labeled) -> list[rows.LabeledExample]:
    return [
        rows.LabeledExample(
            content_hash=example.content_hash,
            file_id=row.id,
            messages=example.messages,
            reference=example.reference,
            verifier=example.verifier,
            details=example.details,
            split=example.split,
        )
        for example in labeled.examples.values()
    ]


@contextlib.contextmanager
def _kept(path: Path, content: BinaryIO) -> Iterator[None]:
    """Keep `content` at `path`, safe from a power cut, unless the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            content.seek(0)
            while chunk := content.read(CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _fsync_directory(path.parent)
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
