"""The verifiers read the references of files as they are in the wild; see the files' own tests."""

from dataclasses import replace
from pathlib import Path

from tempo_server.admin import references
from tempo_storage.labeled.file import parse

FILES = Path(__file__).parents[2] / "storage" / "labeled" / "files"


def test_only_a_wrong_tolerance_is_refused_by_the_verifiers() -> None:
    examples = []
    names = []
    for path in sorted(FILES.iterdir()):
        for example in parse(path.read_bytes(), references.installed()).examples:
            names.append(path.name)
            examples.append(replace(example, line=len(names)))
    errors = references.check(examples)
    assert len(examples) > 250
    assert {names[error.line - 1] for error in errors} == {"tolerance_bad.jsonl"}
    assert len(errors) == 10
    assert "5%" in errors[0].message
