"""The script of phase one killed by SIGKILL at random moments, and started again until it ends.

Simulated: the death of `precompute_teacher.py`, with its teacher, its thread that writes behind it
and the fit of its probe, at any moment from its first line on; each run is a forked child that has
torch already, and ends in the same cache and probe, byte for byte. Not simulated: a death while
Python imports.
"""

import random
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kdcache.engine import precomputation
from torture import phases
from torture.common import Child, Row, fork, main, replaced
from torture.phases import snapshot

SCRIPT = Path(__file__).parents[2] / "precompute_teacher.py"
BLOCK_ROWS = 2  # many blocks, so that many moments lie between two


def start(root: Path) -> Child:
    """The script, in a child."""

    def work(report: Any) -> int:
        torch.set_num_threads(1)
        sys.argv = [str(SCRIPT), *phases.ONE.removeprefix("precompute ").split()]
        sys.argv[-1] = str(root / "new" / "t.h5")
        with (
            replaced(precomputation, _BLOCK_ROWS=BLOCK_ROWS),
            replaced(sys, stdout=open("/dev/null", "w"), stderr=open("/dev/null", "w")),
        ):
            try:
                runpy.run_path(str(SCRIPT), run_name="__main__")
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    (root / "new").mkdir(parents=True, exist_ok=True)
    return fork(work)


def run(count: int, seed: int) -> Row:
    """Kill `count` times, over as many caches as that takes."""
    row = Row("The script of phase one killed by SIGKILL at random moments", count)
    generator = random.Random(seed)
    kills = caches = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        code, _ = start(folder / "undisturbed").finish()
        assert code == 0
        duration, expected = time.monotonic() - started, snapshot(folder / "undisturbed")
        while kills < count:
            root, code, attempts = folder / f"{caches}", -9, 0
            while code == -9:
                child = start(root)
                # later kills come later, or nothing would ever be finished
                if kills < count and attempts < 20:
                    time.sleep(generator.random() * duration)
                    child.kill()
                code, _ = child.finish()
                kills, attempts = kills + (code == -9), attempts + 1
            if code != 0:
                row.violations.append(f"cache {caches} ended with {code}")
            elif snapshot(root) != expected:
                row.violations.append(f"cache {caches} is not the undisturbed one")
            shutil.rmtree(root)
            caches += 1
    row.count = kills
    row.outcome = f"{caches} caches, each with its probe identical to the undisturbed one"
    return row


if __name__ == "__main__":
    main(run, 20)
