"""Let a real pretrained model learn, and print what it gained on questions that nobody asked.

    python -m tempo_lab.learn.main     # `make learn`: about an hour for each set and seed

Each finished run is a line of `<out>/learn.jsonl`, so the same command continues. The model is
SmolLM2-135M-Instruct; `--model` takes another directory.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import openai
from rich.console import Console

from tempo_lab.learn import smollm2
from tempo_lab.learn.questions import SETS
from tempo_lab.learn.results import OUT, PICTURES, append, draw, examples, is_made, table
from tempo_lab.learn.run import Plan, run
from tempo_lab.rows import read
from tempo_lab.tasks.base import CACHE
from tempo_storage.errors import TempoError

console = Console(highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, print the table, and return 0, or 1 if a run failed."""
    options = _options(arguments)
    path = options.out / "learn.jsonl"
    try:
        model = options.model or smollm2.build(CACHE)
        for seed in options.seeds:
            for name in options.sets:
                plan = Plan(SETS[name], seed, options.iterations, dict(options.setting), model)
                if not is_made(plan, read(path)):
                    start = time.monotonic()
                    append(path, run(plan, options.build / plan.folder))
                    console.print(f"{name}, seed {seed}: {(time.monotonic() - start) / 60:.0f} min")
    except (TempoError, openai.OpenAIError, RuntimeError) as error:
        console.print(f"learn failed: {error}", style="red")
        return 1
    rows = read(path)
    console.print(f"{table(rows)}\n\n{examples(rows)}", soft_wrap=True)
    if rows:
        console.print(f"picture: {draw(rows, options.pictures)}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", type=_names, default=list(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="such as 0,1,2")
    parser.add_argument("--iterations", type=int, default=8, help="of each of the two rounds")
    parser.add_argument("--model", type=Path, help="directory of another model")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder of the picture")
    parser.add_argument("--build", type=Path, default=Path("build/learn"), help="data of the runs")
    text = "a setting of the trainer, such as TEMPO_KL_COEFFICIENT=0.1; may be repeated"
    parser.add_argument("--setting", type=_setting, action="append", default=[], help=text)
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in SETS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; choose from {', '.join(SETS)}")
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.startswith("TEMPO_") or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}; give TEMPO_NAME=value")
    return name, value


if __name__ == "__main__":
    raise SystemExit(main())
