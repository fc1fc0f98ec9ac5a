"""Compare TEMPO with other methods on your own questions: runs, tables and curves in one folder.

    tempo study --model MODEL --labeled labeled.jsonl --unlabeled asked.jsonl --out study

Answers in the unlabeled file are hidden: they measure, and only `oracle` learns from them. Without
them the held-out labeled questions measure. The trainer's settings are its TEMPO_ variables.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tempo_lab.study.lab import Spec
from tempo_lab.study.methods import METHODS
from tempo_lab.study.plan import console, study
from tempo_lab.study.questions import Data
from tempo_lab.study.served import served_model
from tempo_storage.errors import TempoError
from tempo_trainer.settings import TrainerSettings

SHORT = 256  # tokens
DEFAULT = "tempo,frozen,ttrl,empo,supervised,random"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the study, or what is left of it; 1 if a run failed."""
    given = vars(_options(arguments))
    out, processes = given.pop("out"), given.pop("processes")
    methods, seeds = given.pop("methods"), given.pop("seeds")
    length = given.pop("max_tokens")
    try:
        settings = {"max_response_tokens": length} if length else _length()
        specs = [
            Spec(method=method, seed=seed, settings=settings, **given)
            for seed in seeds
            for method in methods
        ]
        Data.load(given["labeled"], given["unlabeled"], given["unseen"])
        if given["sampler"] == "vllm":
            served_model(specs[0].worker_settings(), given["model"])
        return study({out: specs}, processes=processes)
    except (TempoError, OSError) as error:
        console.print(f"study failed: {error}", style="red")
        return 1


def _length() -> dict[str, int]:
    """Return the longest response where no variable says it: 256 tokens, a small model's."""
    given = "max_response_tokens" in TrainerSettings().model_fields_set
    return {} if given else {"max_response_tokens": SHORT}


def numbers(text: str) -> list[int]:
    """Read numbers that are separated by commas, each once."""
    return list(dict.fromkeys(int(number) for number in text.split(",")))


def positive(text: str) -> int:
    """Read a number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def names(text: str) -> list[str]:
    """Read methods that are separated by commas, each once."""
    found = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in found if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; choose from {', '.join(METHODS)}")
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tempo study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--labeled", required=True, help="file of questions with answers")
    parser.add_argument("--unlabeled", required=True, help="file of questions to adapt to")
    parser.add_argument("--unseen", default="", help="file of questions only to measure on")
    parser.add_argument("--out", type=Path, required=True, help="folder; an old one is continued")
    what = f"separated by commas, the first is what others are compared with: {', '.join(METHODS)}"
    parser.add_argument("--methods", type=names, default=DEFAULT, help=what)
    parser.add_argument("--seeds", type=numbers, default="0,1,2", help="separated by commas")
    parser.add_argument("--iterations", type=positive, default=200)
    parser.add_argument("--measure-every", type=positive, default=20, help="iterations")
    text = "responses per question, measuring"
    parser.add_argument("--samples", type=positive, default=8, help=text)
    text = f"of a response (TEMPO_MAX_RESPONSE_TOKENS, else {SHORT})"
    parser.add_argument("--max-tokens", type=positive, help=text)
    where = "vllm: the server at TEMPO_BASE_URL serves --model and shares TEMPO_DATA_DIR"
    where += "; pause training meanwhile (tempo pause); one run at a time"
    parser.add_argument("--sampler", choices=("local", "vllm"), default="local", help=where)
    parser.add_argument("--processes", type=int, default=0, help="runs at once; 0: one per core")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
