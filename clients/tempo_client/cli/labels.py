"""The commands `tempo labels …`: list, correct, export and check the labeled questions."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from tempo_client._client import Tempo
from tempo_client._protocol import Request, complete, exchange
from tempo_client.cli.output import Json, connect, fail, field_rows, local_time, messages, show
from tempo_client.types import Label

MAX_SHOWN = 60  # characters of a question or an answer
MAX_LISTED = 10  # labels without a right response
LABELS_PER_REQUEST = 16
DEFAULT_MAX_TOKENS = 512
OPT_OUT = {"x-tempo-opt-out": "1"}  # the server captures no question of such a request

LabelId = Annotated[str, typer.Argument(metavar="LABEL", help="As `tempo labels list` shows it.")]
LabelOrFile = Annotated[
    str, typer.Argument(metavar="LABEL|FILE", help="A label's id, or a file's, such as file-1a2b.")
]
Split = Annotated[str | None, typer.Option(metavar="[train|held_out]", help="Only this split.")]
File = Annotated[
    str | None, typer.Option(metavar="FILE", help="Only this file's; see `tempo labels files`.")
]
HeldOut = Annotated[bool, typer.Option("--held-out", help="With the held-out labels, too.")]
Answers = Annotated[list[str], typer.Argument(help="The right answer, or several right ones.")]
Verifier = Annotated[str | None, typer.Option(help="Another verifier for it.")]
Output = Annotated[Path | None, typer.Argument(help="By default standard output.")]
Responses = Annotated[int, typer.Option("-n", min=1, max=64, help="Responses to each question.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Check only so many questions.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Limit of tokens; by default the users' own, or 512.")
]
Model = Annotated[str, typer.Option(help="The served model to ask.")]
VllmKey = Annotated[
    str, typer.Option(envvar="TEMPO_VLLM_API_KEY", help="The key of vLLM's --api-key.")
]

labels = typer.Typer(help="List, correct, remove, export and check labeled questions.")


@labels.command("list")
def list_labels(
    ctx: typer.Context,
    split: Split = None,
    file: File = None,
    held_out: HeldOut = False,
    as_json: Json = False,
) -> None:
    """List the labels; held-out ones only with --held-out or --split held_out."""
    listed = _list(connect(ctx), split, file, held_out)
    rows = [(label.id[:12], label.split, *_summary(label)) for label in listed]
    columns = ("label", "split", "verifier", "answer", "question")
    if not listed:
        messages.print("no such label is stored; `tempo labels files` lists the files")
    show(listed, rows, as_json=as_json, columns=columns)


@labels.command("files")
def list_files(ctx: typer.Context, as_json: Json = False) -> None:
    """List the uploaded files, newest first."""
    listed = connect(ctx).files.list()
    rows = [(file.id, file.filename, file.examples, local_time(file.created_at)) for file in listed]
    show(listed, rows, as_json=as_json, columns=("file", "name", "labels", "uploaded"))


@labels.command()
def remove(ctx: typer.Context, label_or_file: LabelOrFile, as_json: Json = False) -> None:
    """Remove a label, or all labels of a file that no other file has.

    Nothing trains on them or is measured by them any more. The command prints the versions that
    learned from the file; these versions stay.
    """
    tempo = connect(ctx)
    is_file = label_or_file.startswith("file-")
    answer = tempo.files.delete(label_or_file) if is_file else tempo.labels.remove(label_or_file)
    rows = [("removed", answer.id), ("labels removed", answer.examples)]
    rows += [("learned", adapter) for adapter in answer.adapters]
    show(answer, rows, as_json=as_json)


@labels.command()
def replace(
    ctx: typer.Context,
    label_id: LabelId,
    answer: Answers,
    verifier: Verifier = None,
    as_json: Json = False,
) -> None:
    """Replace the answer of a label; the question stays in its split."""
    answers = answer if len(answer) > 1 else answer[0]
    label = connect(ctx).labels.replace(label_id, answers, verifier=verifier)
    rows = field_rows(label, "id", "split", "verifier", "reference_answer")
    show(label, rows, as_json=as_json)


@labels.command()
def export(
    ctx: typer.Context,
    output: Output = None,
    split: Split = None,
    file: File = None,
    held_out: HeldOut = False,
    as_json: Json = False,
) -> None:
    """Write the labels as a labeled file, which can be uploaded again.

    It is JSON Lines, or a JSON array with --json. Held-out labels are in it only with --held-out or
    --split held_out.
    """
    lines = [label.line() for label in _list(connect(ctx), split, file, held_out)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if as_json:
        text = json.dumps(lines, ensure_ascii=False, indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        messages.print(f"{output}: {len(lines)} labels")


@labels.command()
def check(
    ctx: typer.Context,
    n: Responses = 4,
    limit: Limit = None,
    split: Split = None,
    file: File = None,
    held_out: HeldOut = False,
    model: Model = "tempo",
    max_tokens: MaxTokens = None,
    api_key: VllmKey = "",
    as_json: Json = False,
) -> None:
    """Ask the served model the labeled questions, and verify its responses.

    A label without a right response may be wrong, and one with right responses only teaches little.
    No question is captured. Held-out labels are checked only with --held-out or --split held_out.
    """
    tempo = connect(ctx)
    listed = _list(tempo, split, file, held_out)[:limit]
    if not listed:
        fail("there are no labels; upload some with `tempo recalibrate FILE`")
    users = tempo.status().users_decoding
    limit_of_tokens = max_tokens or (users and users.max_tokens) or DEFAULT_MAX_TOKENS
    body = {"model": model, "n": n, "max_tokens": limit_of_tokens}
    verdicts: dict[str, list[bool | None]] = {}
    starts = range(0, len(listed), LABELS_PER_REQUEST)
    for start in track(starts, "checking", console=messages, disable=not messages.is_terminal):
        part = listed[start : start + LABELS_PER_REQUEST]
        responses = {label.id: _ask(tempo, label, body, api_key) for label in part}
        verdicts |= tempo.labels.verify(responses, held_out=True).verdicts
        if not messages.is_terminal:
            messages.print(f"{len(verdicts)} of {len(listed)} labels are checked")
    rights = {label.id: verdicts[label.id].count(True) for label in listed}
    counts = Counter(rights.values())
    result = {
        "labels": len(listed),
        "responses": n * len(listed),
        "right": round(sum(rights.values()) / (n * len(listed)), 4),
        "all right": counts[n],
        "all wrong": counts[0],
        "verifier failed": sum(row.count(None) for row in verdicts.values()),
    }
    show(result, result.items(), as_json=as_json)
    wrong = [label for label in listed if not rights[label.id]]
    for label in wrong[:MAX_LISTED]:
        messages.print("no right response: " + "  ".join((label.id[:12], *_summary(label))))
    if len(wrong) > MAX_LISTED:
        messages.print(f"and {len(wrong) - MAX_LISTED} more")


def _list(tempo: Tempo, split: str | None, file: str | None, held_out: bool) -> list[Label]:
    """Return the labels of a split and a file; say so if held-out ones are left out."""
    held_out = held_out or split == "held_out"
    if split is None and not held_out:
        messages.print("without the held-out labels; --held-out adds them")
    return tempo.labels.list(split=split, file=file, held_out=held_out)


def _ask(tempo: Tempo, label: Label, body: dict[str, Any], api_key: str) -> list[str]:
    """Return the served model's responses to a labeled question."""
    body = body | {"messages": label.messages}
    if label.chat_template_kwargs:
        body["chat_template_kwargs"] = label.chat_template_kwargs
    headers = OPT_OUT | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    options = {"json": body, "headers": headers}
    request = Request("POST", "/v1/chat/completions", options, idempotent=True)
    answer = complete(exchange(tempo, request))
    return [choice["message"]["content"] or "" for choice in answer["choices"]]


def _summary(label: Label) -> tuple[str, str, str]:
    """Return verifier, answers and question, shortened."""
    answers = " or ".join(map(str, label.reference_answer))
    question = " ".join(str(label.messages[-1]["content"]).split())
    if len(question) > MAX_SHOWN:  # a context may stand before the question, so the end says more
        question = f"…{question[1 - MAX_SHOWN :]}"
    return label.verifier, answers[:MAX_SHOWN], question
