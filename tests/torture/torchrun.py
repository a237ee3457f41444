"""Runs of the real torchrun, killed and resumed: kills.py with `torch.distributed`.

Simulated: SIGKILL of one process of two, or of torchrun and all that it started, at a random moment
of a run that has begun, and the same command again, until `--count` kills have been survived. Each
start takes seconds, so they are few. Not simulated: machines that lose each other.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from kdcache.runtime import distributed
from torture.common import HUNG, Job, Row, main, wrong_name

JOB = Job(rows=(60, 10, 7), classes=64, block_rows=4)  # 30 + 3 + 2 blocks
SECONDS_OF_A_BLOCK = 0.05


def fill(path: Path) -> None:
    """In each process that torchrun starts: fill its blocks, slowly, and leave its number."""
    processes = distributed.init()
    with JOB.open(path, processes) as writer:
        (path.parent / f"started-{processes.rank}").write_text(str(os.getpid()))
        for block in writer.missing:
            time.sleep(SECONDS_OF_A_BLOCK)
            JOB.write_block(writer, block)
        if not writer.complete:
            writer.seal()
    distributed.destroy()


def attempt(path: Path, kill: bool, generator: random.Random) -> tuple[int, bool]:
    """Start torchrun and perhaps kill. Returns its exit code and whether something was killed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = ["--nproc-per-node", "2", "--module", "torture.torchrun", "--fill", str(path)]
    started = [path.parent / f"started-{rank}" for rank in range(2)]
    for note in started:
        note.unlink(missing_ok=True)
    run = subprocess.Popen(
        [*launcher, *worker],
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while (
        kill
        and run.poll() is None
        and not all(note.exists() and note.read_text() for note in started)
    ):
        time.sleep(0.01)
    killed = False
    if kill and run.poll() is None:
        time.sleep(generator.random() * 20 * SECONDS_OF_A_BLOCK)
        workers = [int(note.read_text()) for note in started]
        for pid in generator.choice(([workers[0]], [workers[1]], [run.pid, *workers])):
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)
                killed = True
    try:
        return run.wait(120), killed
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return HUNG, killed


def run(count: int, seed: int) -> Row:
    row = Row("SIGKILL under the real torchrun, two processes", count)
    generator = random.Random(seed)
    kills = caches = 0
    with tempfile.TemporaryDirectory() as name:
        JOB.fill(Path(name) / "undisturbed.h5")
        while kills < count:
            path, code, attempts = Path(name) / f"{caches}" / "t.h5", 1, 0
            path.parent.mkdir()
            while code != 0 and attempts < 20:
                code, killed = attempt(path, kills < count and attempts < 4, generator)
                kills, attempts = kills + killed, attempts + 1
                fault = wrong_name(path, JOB)
                fault = fault or (
                    None
                    if code == 0 or (killed and code != HUNG)
                    else f"torchrun ended with {code}"
                )
                row.violations += [f"cache {caches}: {fault}"] if fault else []
            if (
                not path.exists()
                or path.read_bytes() != (Path(name) / "undisturbed.h5").read_bytes()
            ):
                row.violations.append(f"cache {caches}: not the undisturbed file")
            caches += 1
    row.count, row.outcome = kills, f"{caches} caches, each identical to the undisturbed file"
    return row


if __name__ == "__main__":
    if "--fill" in sys.argv:
        fill(Path(sys.argv[2]))
    else:
        main(run, 2)
