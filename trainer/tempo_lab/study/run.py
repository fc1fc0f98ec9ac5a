"""One run: a method with a seed, one JSON line per iteration, resumed where it was interrupted.

Line 0 is the policy before it learns. Lines after the last saved state are written anew by the run
that resumes; it draws and computes what the interrupted one would have.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tempo_lab.study.lab import Lab, Spec
from tempo_lab.study.measurement import measure, measure_scaled
from tempo_lab.study.methods import METHODS, warm_up
from tempo_lab.study.questions import Data
from tempo_storage.errors import InvalidInputError
from tempo_trainer.learning import checkpoint
from tempo_trainer.sampling.verifier_pool import VerifierPool

Report = Callable[[int], None]
"""Called with the number of the iteration that has ended."""


def run(spec: Spec, folder: Path, report: Report = lambda _: None) -> Path:
    """Make or resume a run; return its file of JSON lines."""
    lines, states = folder / "runs" / f"{spec.stem}.jsonl", folder / "state" / spec.stem
    if _last(lines) == spec.iterations:
        report(spec.iterations)
        return lines
    data = Data.load(spec.labeled, spec.unlabeled, spec.unseen)
    if spec.method == "oracle" and not data.unlabeled.answered:
        raise InvalidInputError(f"the oracle needs an answer to each question of {spec.unlabeled}")
    sets = (data.train, data.held_out, data.unlabeled, *data.measured.values())
    names = sorted({q.verifier for s in sets for q in s.questions})
    with VerifierPool(names) as pool, closing(Lab(spec, data, pool)) as lab:
        seconds = _resume(lab, lines, states)
        with lines.open("a") as file:
            for line in _iterate(spec, lab, data, seconds):
                file.write(json.dumps(line) + "\n")
                file.flush()
                if lab.iteration and _due(lab.iteration, spec.save_every, spec.iterations):
                    checkpoint.save(states, str(lab.iteration), lab.state())
                    checkpoint.remove(states, checkpoint.names(states) - {str(lab.iteration)})
                report(lab.iteration)
    return lines


def _iterate(spec: Spec, lab: Lab, data: Data, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Yield the lines that are missing; `seconds` were spent on training so far, None if new."""
    method = METHODS[spec.method]
    # Processor time: a machine that is busy with other runs makes no method look slow. What a GPU
    # or vLLM does for us is not in it.
    alone = lab.networks.device.type == "cpu" and spec.sampler == "local"
    clock = time.process_time if alone else time.perf_counter
    figures: dict[str, Any] = {}
    while lab.iteration < spec.iterations or seconds is None:
        before = clock()
        if seconds is not None:
            figures = method.iterate(lab)
            lab.counters["iteration"] += 1
        elif method.critic:
            warm_up(lab)
        seconds = (seconds or 0.0) + clock() - before
        if _due(lab.iteration, spec.measure_every, spec.iterations):
            figures |= measure(lab, data.measured, samples=spec.samples, critic=method.critic)
        if lab.iteration == spec.iterations:
            figures["scaled"] = measure_scaled(lab, data.measured, samples=spec.samples)
        if lab.iteration == 0:
            ids = {n: [q.id[:12] for q in s.questions] for n, s in data.measured.items()}
            figures |= {"questions": ids}
        counted = {"iteration": lab.iteration, "sampled": lab.counters["sampled"]}
        yield counted | {"seconds": seconds} | figures


def _due(iteration: int, every: int, last: int) -> bool:
    return iteration % every == 0 or iteration == last


def _last(lines: Path) -> int:
    """Return the number of the last whole line, -1 if there is none."""
    text = lines.read_text() if lines.is_file() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return int(json.loads(whole[-1])["iteration"]) if whole else -1


def _resume(lab: Lab, lines: Path, states: Path) -> float | None:
    """Restore the last state, drop the lines after it, return its seconds; None for a new run."""
    names = [p.name for p in states.iterdir() if p.name.isdigit()] if states.is_dir() else []
    if not names or not lines.is_file():
        shutil.rmtree(states, ignore_errors=True)
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.unlink(missing_ok=True)
        return None
    state = checkpoint.load(states, max(names, key=int))
    lab.restore(state)
    kept = lines.read_text().splitlines(keepends=True)[: lab.iteration + 1]
    lines.write_text("".join(kept))
    return float(json.loads(kept[-1])["seconds"])
