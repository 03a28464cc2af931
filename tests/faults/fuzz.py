"""Saved models with one thing changed, by the thousand: each must be refused by an error of this
package, or load and compute what it computed before.

    python -m tests.faults.fuzz --mutants 1500 --seed 0

prints a table and a line for each failure. A mutant is loaded in a process of its own kind, which
may take ten seconds and some memory; processes are forked with everything imported. It is tried as
it is and, where that was refused and the manifest has sizes and checksums, once more with those of
the changed files, since whoever changes a file on purpose changes its checksum too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import math
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from peft import LoraConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import MetaAdapterError
from tests.adapted import adapted, outputs, stirred
from tests.faults.mutations import Files, Mutant, mutated, signed
from tests.tiny import tiny

SECONDS = 10.0
MEMORY = 3 * 2**30
"""What a process may have in addition to what it has when it is forked, in bytes of addresses."""

REFUSED, SAME, SETTING = "refused", "loads, same outputs", "loads, another setting"
UNFIT = "loads, an unfit setting"
FORGED, CHANGED = "loads, forged weights", "LOADS, OTHER OUTPUTS"
FOREIGN, HANG, OUTSIDE = "FOREIGN EXCEPTION", "HANG", "WROTE OUTSIDE"
DIED, UNCLEAR = "PROCESS DIED", "UNCLEAR MESSAGE"
FAILURES = (CHANGED, FOREIGN, HANG, OUTSIDE, DIED, UNCLEAR)
OUTCOMES = (REFUSED, SAME, SETTING, UNFIT, FORGED, *FAILURES)

SETTINGS = ("config.json", "adapter_config.json", "generation_config.json")
"""The files whose values are settings: who changes them gets another model, and asked for it."""


@dataclass(frozen=True)
class Kind:
    """A family to change: its files, and what it computes in each language."""

    name: str
    cell: str
    files: Files
    expected: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    number: int
    kind: str
    what: str
    outcome: str
    detail: str
    seconds: float


def _models() -> Iterator[tuple[str, str, Any]]:
    yield "bottleneck", "xlm-r", adapted("xlm-r", "bottleneck")
    yield "lora", "bert", adapted("bert", "lora")
    theta = LoraConfig(r=2, target_modules="all-linear")
    yield "shared lora", "llama", adapted("llama", "lora", shared=theta)
    yield "ia3", "mt5", adapted("mt5", "ia3")
    yield "module copies", "gpt2", adapted("gpt2", "copy_layer_norm")
    yield "share_adapter", "bert", adapted("bert", "bottleneck", share_adapter=True)

    try:
        from adapters import SeqBnConfig
    except ImportError:
        return  # the lane without the library

    base = tiny("bert").make()
    config = SeqBnConfig(reduction_factor=4)
    yield "adapters", "bert", get_language_model(base, config, ["en", "sw"])


def make_kinds() -> list[Kind]:
    """The families, made in memory."""
    kinds = []
    for name, cell, model in _models():
        torch.manual_seed(len(kinds))
        stirred(model).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            found = [path for path in Path(folder).rglob("*") if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
            # of the loaded model: what counts is that a load gives the same as a load
            loaded = LanguageAdapterModel.from_pretrained(folder)
        files.pop("README.md", None)
        kinds.append(Kind(name, cell, files, _computed(loaded, cell)))
    return kinds


def _computed(model: Any, cell: str) -> dict[str, str]:
    """A digest of the outputs in each language."""
    batch = tiny(cell).batch()
    digests = {}
    for language in model.languages:
        values = outputs(model, batch, language=language)
        data = b"".join(value.double().numpy().tobytes() for value in values)
        digests[language] = hashlib.sha256(data).hexdigest()
    return digests


def mutant_of(kinds: Sequence[Kind], seed: int, number: int) -> tuple[Kind, Mutant]:
    """The mutant of that number: the same for everybody who asks for it."""
    return kinds[number % len(kinds)], mutated(
        kinds[number % len(kinds)].files, Random(f"{seed}/{number}")
    )


def write(mutant: Mutant, files: Files, area: Path) -> Path:
    """Write a family into `area`, beside a folder that is none of its business."""
    outside = area / "outside"
    outside.mkdir(parents=True)
    (outside / "file").write_bytes(files.get("config.json", b"{}"))
    folder = area / "family"
    folder.mkdir()
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    for path in mutant.folders:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for path, target in mutant.links.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target.format(outside=outside))
    return folder


def _listing(area: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in area.rglob("*"):
        state = path.lstat()
        size = 0 if path.is_dir() else state.st_size
        found[path.relative_to(area).as_posix()] = (size, state.st_mode)
    return found


def try_once(
    kind: Kind, mutant: Mutant, files: Files, area: Path, *, forged: bool = False
) -> tuple[str, str]:
    """Load a mutant and compute with it: the outcome, and a line about it.

    Weights may be others only where the manifest was forged as well.
    """
    folder = write(mutant, files, area)
    before = _listing(area)
    try:
        outcome, detail = _loaded(kind, mutant, folder, forged=forged)
        after = _listing(area)
        if after != before:
            changed = sorted(after.keys() ^ before.keys()) or "other contents"
            return OUTSIDE, f"{changed}"
        return outcome, detail
    finally:
        shutil.rmtree(area)


def _loaded(kind: Kind, mutant: Mutant, folder: Path, *, forged: bool) -> tuple[str, str]:
    try:
        model = LanguageAdapterModel.from_pretrained(folder)
    except MetaAdapterError as error:
        if "Found" not in str(error) or len(str(error)) > 20_000:
            return UNCLEAR, str(error)[:300]
        return REFUSED, " ".join(str(error).split())[:300]
    except Exception as error:
        return FOREIGN, _where(error)

    try:
        found = _computed(model, kind.cell)
    except Exception as error:
        # loud, and what was asked for: a start token that there is no embedding of, say
        is_setting = mutant.setting is not None and mutant.setting[0].endswith(SETTINGS)
        return (UNFIT if is_setting else FOREIGN), f"in use: {_where(error)}"

    # where all languages share an adapter, one of another name may be any of them
    any_of_them = kind.expected.values()
    other = [
        key
        for key, digest in found.items()
        if digest != kind.expected.get(key, digest if digest in any_of_them else "")
    ]
    if not other:
        return SAME, ""
    if mutant.setting is not None and mutant.setting[0].endswith(SETTINGS):
        return SETTING, ".".join(mutant.setting)
    if mutant.in_weights and forged:
        return FORGED, ""
    return CHANGED, f"in {other}"


def _where(error: BaseException) -> str:
    """The error, and the innermost place in which it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "hf_meta_adapters" in frame.filename]
    shown = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own[-1:], frames[-1])]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]} ({' → '.join(shown)})"


def _work(kinds: Sequence[Kind], seed: int, tasks: Connection, area: str) -> None:
    """Try the mutants whose numbers come, until `None` does."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    os.makedirs(area)
    os.chdir(area)
    warnings.simplefilter("ignore")

    while (number := tasks.recv()) is not None:
        kind, mutant = mutant_of(kinds, seed, number)
        here = Path(area) / f"{number}"
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            outcome, detail = try_once(kind, mutant, mutant.files, here)
            files = signed(mutant.files)
            if outcome == REFUSED and files != mutant.files:
                outcome, detail = try_once(kind, mutant, files, here, forged=True)
        if os.listdir(area):
            outcome, detail = OUTSIDE, f"{os.listdir(area)}"
        tasks.send((number, outcome, detail))


class Worker:
    """A forked process that tries one mutant after the other."""

    def __init__(self, kinds: Sequence[Kind], seed: int, area: Path) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=_work, args=(kinds, seed, theirs, str(area)), daemon=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking a process that has threads
            self.process.start()
        theirs.close()
        self.number: int | None = None
        self.began = 0.0

    def give(self, number: int | None) -> None:
        self.number, self.began = number, time.monotonic()
        self.connection.send(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(
    kinds: Sequence[Kind],
    numbers: Sequence[int],
    seed: int,
    *,
    workers: int = 1,
    seconds: float = math.inf,
) -> list[Outcome]:
    """Try mutants, as many as there is time for, and say what became of each."""
    end = time.monotonic() + seconds
    waiting, done = list(reversed(numbers)), []
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    started = 0

    def start() -> Worker:
        nonlocal started
        started += 1
        worker = Worker(kinds, seed, folder / f"worker{started}")
        worker.give(waiting.pop())
        return worker

    def note(worker: Worker, outcome: str, detail: str) -> None:
        kind, mutant = mutant_of(kinds, seed, worker.number or 0)
        seconds = time.monotonic() - worker.began
        done.append(Outcome(worker.number or 0, kind.name, mutant.what, outcome, detail, seconds))

    alive = [start() for _ in range(min(workers, len(waiting)))]
    try:
        while alive:
            if time.monotonic() > end:
                waiting.clear()
            ready = wait([worker.connection for worker in alive], timeout=0.5)
            for worker in list(alive):
                if worker.connection in ready:
                    try:
                        _, outcome, detail = worker.connection.recv()
                    except (EOFError, OSError):
                        outcome, detail = DIED, ""
                elif time.monotonic() - worker.began > SECONDS:
                    outcome, detail = HANG, f"more than {SECONDS:.0f} s"
                else:
                    continue

                note(worker, outcome, detail)
                if outcome in (HANG, DIED):
                    worker.kill()
                    alive.remove(worker)
                    if waiting:
                        alive.append(start())
                elif waiting:
                    worker.give(waiting.pop())
                else:
                    worker.give(None)
                    worker.process.join(5)
                    worker.kill()
                    alive.remove(worker)
    finally:
        for worker in alive:
            worker.kill()
        shutil.rmtree(folder, ignore_errors=True)

    return sorted(done, key=lambda outcome: outcome.number)


def quietly() -> None:
    """No progress bars, no connections, no advice: a thousand loads would print a thousand."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True


def table(outcomes: Sequence[Outcome]) -> str:
    """How often each outcome was found, by kind of family."""
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    counts = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    lines = ["| outcome | " + " | ".join(kinds) + " | all |", "|---" * (len(kinds) + 2) + "|"]
    for name in OUTCOMES:
        numbers = [counts[kind, name] for kind in kinds]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {sum(numbers)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="when to stop")
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of mutants to try")
    parser.add_argument("--show", nargs="*", default=[], help="further outcomes to list")
    options = parser.parse_args(arguments)

    quietly()
    warnings.simplefilter("ignore")
    kinds = make_kinds()
    began = time.monotonic()
    numbers = options.only or range(options.mutants)
    outcomes = run(kinds, numbers, options.seed, workers=options.workers, seconds=options.seconds)
    seconds = time.monotonic() - began

    print(table(outcomes))
    slowest = sorted(outcomes, key=lambda outcome: -outcome.seconds)[:5]
    for outcome in slowest if "slow" in options.show else []:
        print(f"{outcome.seconds:.1f} s [{outcome.number}] {outcome.what} — {outcome.detail}")
    print(f"{len(outcomes)} mutants in {seconds:.0f} s, the slowest in {slowest[0].seconds:.1f} s")
    failures = [outcome for outcome in outcomes if outcome.outcome in FAILURES]
    for outcome in outcomes:
        if outcome in failures or outcome.outcome in options.show:
            print(
                f"{outcome.outcome} [{outcome.number}, {outcome.seconds:.1f} s] {outcome.kind}:"
                f" {outcome.what} — {outcome.detail}"
            )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
