"""Compare TEMPO with other methods on your own questions: runs, tables and curves in one folder.

    tempo study --model MODEL --labeled labeled.jsonl --unlabeled asked.jsonl --out study

Answers in the unlabeled file are hidden. They measure, and only `oracle` learns from them. Without
answers the held-out labeled questions measure. The trainer's settings are its TEMPO_ variables.
"""

import argparse
from collections.abc import Sequence

from tempo_lab.study.lab import Spec
from tempo_lab.study.methods import METHODS
from tempo_lab.study.plan import add_options, console, positive, study
from tempo_lab.study.questions import Data
from tempo_lab.study.sampling import users_decoding
from tempo_lab.study.served import served_model
from tempo_storage.errors import TempoError
from tempo_trainer.algorithm.loading import check_base
from tempo_trainer.settings import TrainerSettings

DEFAULT_MAX_TOKENS = 256  # of a small model's response
DEFAULT_METHODS = "tempo,frozen,ttrl,empo,supervised,random"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the study, or what is left of it; return 1 if a run failed."""
    options = vars(_options(arguments))
    out = options.pop("out")
    processes = options.pop("processes")
    methods = options.pop("methods")
    seeds = options.pop("seeds")
    max_tokens = options.pop("max_tokens")
    temperature = options.pop("temperature")
    top_p = options.pop("top_p")
    try:
        options["users"] = users_decoding(options["model"], temperature, top_p)
        settings = {"max_response_tokens": max_tokens} if max_tokens else _default_length()
        specs = [
            Spec(method=method, seed=seed, settings=settings, **options)
            for seed in seeds
            for method in methods
        ]
        Data.load(options["labeled"], options["unlabeled"], options["unseen"])
        if options["sampler"] == "vllm":
            served_model(specs[0].worker_settings(), options["model"])
        check_base(options["model"])
        return study({out: specs}, processes=processes)
    except (TempoError, OSError) as error:
        console.print(f"study failed: {error}", style="red")
        return 1


def _default_length() -> dict[str, int]:
    """Return the longest response in tokens as a setting, unless a TEMPO_ variable sets it."""
    is_set = "max_response_tokens" in TrainerSettings().model_fields_set
    return {} if is_set else {"max_response_tokens": DEFAULT_MAX_TOKENS}


def names(text: str) -> list[str]:
    """Read methods that are separated by commas, each once."""
    methods = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in methods if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; choose from {', '.join(METHODS)}")
    return methods


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tempo study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--labeled", required=True, help="file of questions with answers")
    parser.add_argument("--unlabeled", required=True, help="file of questions to adapt to")
    parser.add_argument("--unseen", default="", help="file of questions that only measure")
    text = f"separated by commas, the others are compared with the first: {', '.join(METHODS)}"
    parser.add_argument("--methods", type=names, default=DEFAULT_METHODS, help=text)
    add_options(parser, seeds="0,1,2", out=None)
    parser.add_argument(
        "--samples", type=positive, default=16, help="responses per measured question"
    )
    text = f"of a response (TEMPO_MAX_RESPONSE_TOKENS, else {DEFAULT_MAX_TOKENS})"
    parser.add_argument("--max-tokens", type=positive, help=text)
    text = "vllm: the server at TEMPO_BASE_URL, which serves --model and shares TEMPO_DATA_DIR;"
    text += " pause training meanwhile (tempo pause); the runs go one by one"
    parser.add_argument("--sampler", choices=("local", "vllm"), default="local", help=text)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
