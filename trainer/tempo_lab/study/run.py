"""One run: a method with a seed, one JSON line per iteration, resumed where it was interrupted.

Line 0 is the policy before it learns. A run that resumes writes the lines after the last saved
state anew. It draws and computes what the interrupted run would have drawn and computed.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tempo_lab.study import gating
from tempo_lab.study.lab import Lab, Spec
from tempo_lab.study.measurement import measure, measure_scaled
from tempo_lab.study.methods import METHODS, WITH_CRITIC, warm_up
from tempo_lab.study.pseudo import reward_figures
from tempo_lab.study.questions import Data
from tempo_trainer.learning import checkpoint
from tempo_trainer.sampling.verifier_pool import VerifierPool

Report = Callable[[int], None]
"""Called with the number of the iteration that has ended."""


def run(spec: Spec, folder: Path, report: Report = lambda _: None) -> Path:
    """Make or resume a run; return its file of JSON lines.

    Raises InvalidInputError for questions that cannot be used.
    """
    lines = folder / "runs" / f"{spec.stem}.jsonl"
    states = folder / "state" / spec.stem
    if _last_iteration(lines) == spec.iterations:
        report(spec.iterations)
        return lines
    data = Data.load(spec.labeled, spec.unlabeled, spec.unseen)
    if spec.method == "oracle":
        data.unlabeled.raise_unless_answered(spec.unlabeled, "; the oracle needs an answer to each")
    sets = (data.train, data.held_out, data.unlabeled, *data.measured.values())
    names = sorted({question.verifier for part in sets for question in part.questions})
    with VerifierPool(names) as pool, closing(Lab(spec, data, pool)) as lab:
        seconds = _resume(lab, lines, states)
        with lines.open("a") as file:
            for line in _iterate(spec, lab, data, seconds):
                file.write(json.dumps(line) + "\n")
                file.flush()
                is_last = lab.iteration == spec.iterations
                if lab.iteration and (is_last or lab.iteration % spec.save_every == 0):
                    checkpoint.save(states, str(lab.iteration), lab.state())
                    checkpoint.remove(states, checkpoint.names(states) - {str(lab.iteration)})
                report(lab.iteration)
    return lines


def _iterate(spec: Spec, lab: Lab, data: Data, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Yield the missing lines; `seconds` were spent on training so far, None for a new run."""
    # Processor time: a machine that is busy with other runs makes no method look slow. The work of
    # a GPU or of vLLM is not in it, so with these it is wall-clock time.
    is_alone = lab.networks.device.type == "cpu" and spec.sampler == "local"
    clock = time.process_time if is_alone else time.perf_counter
    figures: dict[str, Any] = {}
    while lab.iteration < spec.iterations or seconds is None:
        start = clock()
        if seconds is not None:
            figures = METHODS[spec.method](lab)
            lab.counters["iteration"] += 1
            if spec.gate:
                figures |= gating.after_iteration(lab)
        elif spec.method in WITH_CRITIC:
            warm_up(lab)
        if seconds is None and spec.gate:
            gating.remember_base(lab)
        seconds = (seconds or 0.0) + clock() - start
        is_last = lab.iteration == spec.iterations
        if is_last or lab.iteration % spec.measure_every == 0:
            figures |= _measured(spec, lab, data, scaled=is_last)
        if lab.iteration == 0:
            sets = data.measured.items()
            figures["questions"] = {name: [q.id[:12] for q in s.questions] for name, s in sets}
        counts = {"iteration": lab.iteration, "sampled": lab.counters["sampled"]}
        yield counts | {"seconds": seconds} | figures


def _measured(spec: Spec, lab: Lab, data: Data, *, scaled: bool) -> dict[str, Any]:
    """Return the figures of the policy as it would serve; `scaled` ones are at the end of a run."""
    how: dict[str, Any] = {"samples": spec.samples, "users": spec.users}
    with gating.serving(lab):
        critic = spec.method in WITH_CRITIC
        figures = measure(lab, data.measured, critic=critic, **how)
        figures["reward"] = reward_figures(lab, spec.method)
    if scaled:
        with gating.serving(lab, scale=1.0):
            figures["scaled"] = measure_scaled(lab, data.measured, **how)
    return figures


def _last_iteration(lines: Path) -> int:
    """Return the iteration of the last whole line, -1 if there is none."""
    text = lines.read_text() if lines.is_file() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return int(json.loads(whole[-1])["iteration"]) if whole else -1


def _resume(lab: Lab, lines: Path, states: Path) -> float | None:
    """Restore the last state, drop the lines after it, return its seconds; None for a new run."""
    names = [name for name in checkpoint.names(states) if name.isdigit()]
    if not names or not lines.is_file():
        shutil.rmtree(states, ignore_errors=True)
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.unlink(missing_ok=True)
        return None
    lab.restore(checkpoint.load(states, max(names, key=int)))
    valid = lines.read_text().splitlines(keepends=True)[: lab.iteration + 1]
    lines.write_text("".join(valid))
    return float(json.loads(valid[-1])["seconds"])
