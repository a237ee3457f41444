"""Writers killed by SIGKILL at random moments, and resumed by 1, 2 or 4 processes to the end.

Simulated: the death of all processes of a run, or of one of them, at any moment of a run on a real
file system; each process is a forked child. Not simulated: `torch.distributed`, whose place pipes
between the children take (torchrun.py does the same with the real one, more slowly), and a death of
the machine (power_loss.py).
"""

import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kdcache.errors import KdcacheError
from kdcache.runtime.distributed import Processes, Result
from torture.common import Child, Job, Row, fork, main, wrong_name

JOB = Job(rows=(60, 10, 7), classes=64, block_rows=4)  # 30 + 3 + 2 blocks
REFUSED = 3


@dataclass(frozen=True)
class Siblings(Processes):
    """Processes that forked from one parent: the first has a pipe to each other one."""

    links: tuple[Connection, ...] = ()

    def barrier(self) -> None:
        self._together(None)

    def broadcast_object(self, function: Callable[[], Result]) -> Result:
        outcome: tuple[Any, KdcacheError | None] = (None, None)
        if self.is_main:
            try:
                outcome = function(), None
            except KdcacheError as error:
                outcome = None, error
        result, refused = self._together(outcome)
        if refused is not None:
            raise refused
        return result

    def _together(self, message: Any) -> Any:
        """Wait for all; what the first one said."""
        try:
            if not self.is_main:
                self.links[0].send(None)
                return self.links[0].recv()
            for link in self.links:
                link.recv()
            for link in self.links:
                link.send(message)
            return message
        except (EOFError, OSError) as error:
            raise KdcacheError(
                "every process to reach the end", "one that ended early", "start again"
            ) from error


def start(path: Path, world: int, pause: float) -> list[Child]:
    """Fork `world` processes that fill the cache.

    Each reports what it finds missing, begins and has finished.
    """
    pipes = [Pipe() for _ in range(world - 1)]
    ends = [[first for first, _ in pipes], *([other] for _, other in pipes)]

    def work(rank: int, report: Callable[[Any], None]) -> int:
        for number, links in enumerate(ends):
            for link in links if number != rank else ():
                link.close()  # else a death would go unnoticed
        try:
            with JOB.open(path, Siblings(rank, world, rank, tuple(ends[rank]))) as writer:
                report(("missing", writer.missing))
                for block in writer.missing:
                    report(("begun", block))
                    time.sleep(pause)  # stands for the teacher
                    JOB.write_block(writer, block)
                    report(("finished", block))
                if not writer.complete:
                    writer.seal()
        except KdcacheError as error:
            report(("refused", str(error)))
            return REFUSED
        return 0

    children = [fork(lambda report, rank=rank: work(rank, report)) for rank in range(world)]
    for links in ends:
        for link in links:
            link.close()
    return children


@dataclass
class Attempt:
    """What the processes of one attempt said before they ended."""

    missing: set[int] | None  # None where one died before it knew
    begun: set[int]
    finished: set[int]
    killed: bool
    complete: bool
    fault: str | None


def attempt(path: Path, world: int, killing: bool, generator: random.Random) -> Attempt:
    """Run to the end, or to a kill of one process or of all of them."""
    children = start(path, world, pause=generator.choice((0, 0.001)))
    if killing:
        time.sleep(generator.random() ** 2 * 0.25 / world)
        for child in generator.sample(children, generator.choice((1, world))):
            child.kill()
    codes, reports = zip(*(child.finish() for child in children), strict=True)
    said = [pair for report in reports for pair in report]
    missing = [blocks for kind, blocks in said if kind == "missing"]
    killed = -signal.SIGKILL in codes
    expected = {0, -signal.SIGKILL, REFUSED} if killed else {0}
    return Attempt(
        missing={block for blocks in missing for block in blocks}
        if len(missing) == world
        else None,
        begun={block for kind, block in said if kind == "begun"},
        finished={block for kind, block in said if kind == "finished"},
        killed=killed,
        complete=set(codes) == {0},
        fault=None if set(codes) <= expected else f"ended with {codes}: {said}",
    )


def run(count: int, seed: int) -> Row:
    """Kill `count` times, over as many caches as that takes."""
    generator = random.Random(seed)
    row = Row("SIGKILL at random moments, resumed by 1, 2 or 4 processes", count)
    kills = caches = again = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed.h5"
        JOB.fill(undisturbed)
        while kills < count:
            path, faults = Path(folder) / f"{caches}" / "t.h5", []
            begun, finished, allowed, complete = set[int](), set[int](), 0, False
            while not complete and len(faults) < 5:
                world = generator.choice((1, 2, 4))
                now = attempt(path, world, kills < count and generator.random() < 0.95, generator)
                if now.missing is not None:  # what the attempts since the last that knew cost
                    again += len(now.missing & begun)
                    if len(now.missing & begun) > allowed or now.missing & finished:
                        faults.append(
                            f"blocks {now.missing & begun} again,"
                            f" {now.missing & finished} had been finished"
                        )
                    begun, allowed = set(), 0
                begun, finished, allowed = (
                    begun | now.begun,
                    finished | now.finished,
                    allowed + world,
                )
                kills, complete = kills + now.killed, now.complete
                faults += [fault for fault in (now.fault, wrong_name(path, JOB)) if fault]
            if not complete or path.read_bytes() != undisturbed.read_bytes():
                faults.append("not the undisturbed file")
            row.violations += [f"cache {caches}: {fault}" for fault in faults]
            caches += 1
    row.count = kills
    row.outcome = (
        f"{caches} caches, each identical to the undisturbed file;"
        f" {again} blocks computed again ({again / kills:.2f} a kill,"
        " never more than one a process); no wrong row under the final name after any kill"
    )
    return row


if __name__ == "__main__":
    main(run, 40)
