"""Commands on forged caches that are sealed well: `info`, `verify` and `train`.

The forger has docs/format.md (sealer.py), and begins with a whole cache that phase one has written
and that `train` learns from. It changes bytes of HDF5's structure or of the layout record, values
of the manifest, numbers, or all of it (another cache, of odd sizes and numbers), and seals again. A
command may do its work or refuse the file in one line; it may end in no traceback, no crash and no
silence. Each runs in a forked child, with the arguments of a command line; some also as processes
of their own, which must say the same. Pictures at the end of training are left out.
"""

import copy
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from cache_makers import make_views

from kdcache import cli
from kdcache.cli.callbacks import ShowTraining
from kdcache.config import registry
from torture.common import Row, fork, main, replaced
from torture.headers import EXTREMES, alter, structure
from torture.sealer import MEMBERS, SPLITS, build, pack_manifest, record_of, seal

SECONDS, MEMORY = 60, 16 << 30
BLOCK_ROWS = 8
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 255, 1000, 2**15, 2**20, 10**7, 2**31, 2**63, 10**30, 0.0,
    0.5, -1.5, 1e-300, 1e300, "", "x", "a:b", "os:getcwd", "none", "\x1b[31m", "x" * 5000, "\n", [],
    [0], [1, 2], [0.5, 0.5, 0.5], [0, 0, 0], ["a"], ["a"] * 20, {}, {"a": 1}, [[[]]],
)  # fmt: skip
STUDENT = [
    *["--student", "tiny_models:tiny_cnn", "--student-weights", "none", "--image-size", "8"],
    *["--epochs", "1", "--batch-size", "32", "--device", "cpu", "--overwrite"],
]


def commands(path: Path) -> dict[str, list[str]]:
    """The words of each command."""
    out = str(path.with_name("run"))
    return {
        "info": ["info", str(path)],
        "verify": ["verify", str(path)],
        "train": ["train", "--cache", str(path), "--out", out, *STUDENT],
    }


def first_cache(path: Path) -> bytes:
    """A whole cache of the embedded images, as phase one writes it."""
    words = "precompute --dataset shapes --limit 20 --views 2 --augment crop-flip --image-size 8"
    teacher = ["--teacher", "tiny_models:tiny_teacher", "--cache", str(path)]
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        assert cli.entry_point([*words.split(), *teacher]) == 0
    return path.read_bytes()


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        names = [f"{split}/{member}" for split in SPLITS for member in MEMBERS]
        return {name: file[name][...] for name in names}


class Forger:
    """Makes forged caches of a whole one."""

    def __init__(self, path: Path, generator: random.Random) -> None:
        self.good, self.record = path.read_bytes(), record_of(path.read_bytes())
        self.arrays = arrays_of(path)
        offset, size = self.record.extents[0]
        self.document = json.loads(self.good[offset : offset + size])
        self.places = structure(path)
        self.generator = generator
        assert pack_manifest(self.document) == self.good[offset : offset + size]

    def forge(self) -> tuple[str, bytes]:
        """What was forged, and the file."""
        kinds: tuple[Callable[[], bytes], ...] = (
            self.structure, self.layout, self.manifest, self.numbers, self.whole,
        )  # fmt: skip
        kind = self.generator.choice(kinds)
        return kind.__name__, kind()

    def structure(self) -> bytes:
        """HDF5's own bytes."""
        bad = bytearray(self.good)
        alter(bad, self.places, self.generator)
        seal(bad, self.record)
        return bytes(bad)

    def layout(self) -> bytes:
        """The layout record; or the file is cut off, or has more, and says so."""
        bad, record, choose = bytearray(self.good), self.record, self.generator
        number = choose.choice((*EXTREMES[:-2], choose.randrange(len(bad)), record.block_bytes * 2))
        place = choose.randrange(len(record.extents))
        other = list(record.extents)
        match choose.randrange(6):
            case 0:
                record = replace(record, block_bytes=min(number, 2**64 - 1))
            case 1:
                other[place] = (min(number, 2**64 - 1), other[place][1])
                record = replace(record, extents=tuple(other))
            case 2:
                other[place] = (other[place][0], min(number, 2**64 - 1))
                record = replace(record, extents=tuple(other))
            case 3:
                record = replace(record, extents=tuple(other[: choose.randrange(2, 5)]))
            case 4:
                record = replace(record, version=choose.choice((0, 1, 3, 2**32 - 1)))
            case _:
                size = choose.randrange(600, len(bad) + 600)
                bad = bad[:size].ljust(size, b"\1")
                record = replace(record, file_size=size)
        seal(bad, record)
        return bytes(bad)

    def manifest(self) -> bytes:
        """One or two values of the manifest are others, or are not there."""
        document = copy.deepcopy(self.document)
        for _ in range(self.generator.choice((1, 1, 2))):
            parents: list[Any] = [document]
            for item in parents:
                inside = item.values() if isinstance(item, dict) else item
                parents += [one for one in inside if isinstance(one, dict | list) and one]
            parent = self.generator.choice([item for item in parents if item])
            keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
            key = self.generator.choice(list(keys))
            if self.generator.randrange(4) == 0:
                del parent[key]
            else:
                parent[key] = self.generator.choice((*VALUES, *self._near(parent[key])))
        return build(document, self.arrays, BLOCK_ROWS)

    def _near(self, value: Any) -> list[Any]:
        if isinstance(value, int | float):
            return [value + 1, value - 1, value * 2, -value, float(value), str(value)]
        if isinstance(value, list):
            return [value[:-1], [*value, *value], value[::-1], [value]]
        return [value.upper(), value[:-1], value + " "] if isinstance(value, str) else []

    def numbers(self) -> bytes:
        """Some numbers of one array are others."""
        arrays = {name: array.copy() for name, array in self.arrays.items()}
        name = self.generator.choice(sorted(arrays))
        flat = arrays[name].reshape(-1)
        bits = flat.view(f"<u{flat.itemsize}")
        for _ in range(self.generator.choice((1, 2, len(bits)))):
            low, high = 0, 256**flat.itemsize - 1
            number = self.generator.choice(
                (low, 1, high, high // 2, self.generator.randint(0, high))
            )
            bits[self.generator.randrange(len(bits))] = number
        return build(self.document, arrays, BLOCK_ROWS)

    def whole(self) -> bytes:
        """Another cache, which holds what it announces, of odd sizes and numbers."""
        choose, document = self.generator, copy.deepcopy(self.document)
        classes, names = choose.choice((1, 2, 3, 40)), choose.choice((1, 2, 10))
        document["teacher"] |= {"classes": classes, "class_names": None}
        document["dataset"]["class_names"] = [f"class {number}" for number in range(names)]
        if choose.randrange(3) == 0:
            document["teacher"]["class_names"] = [f"class {number}" for number in range(classes)]
        shape = choose.choice(([32, 48], [1, 1], [32, 32], [2000, 3]))
        document["dataset"]["image_shape"] = shape
        arrays: dict[str, np.ndarray] = {}
        for place, split in enumerate(SPLITS):
            rows, views = choose.choice((1, 2, 5, 30)), choose.choice((1, 3))
            document["splits"][split] |= {"rows": rows, "views": views}
            size = (rows, views, classes)
            spread = choose.choice((0.0, 1.0, 1e-7, 65504.0))
            logits = spread * np.sin(np.arange(rows * views * classes) + 1)
            arrays[f"{split}/logits"] = logits.reshape(size).astype("<f2")
            arrays[f"{split}/views"] = make_views(rows, views, place).astype("<i2")
            if shape != [32, 48]:
                arrays[f"{split}/views"][:] = (0, 0, *shape, 0)
            labels = np.arange(rows) % choose.choice((1, names))
            arrays[f"{split}/labels"] = labels.astype("<i8")
            arrays[f"{split}/image_crc32"] = np.arange(rows).astype("<u4")
        return build(document, arrays, BLOCK_ROWS)


def silent(self: Any, run: Any) -> None:
    """In the place of the pictures at the end of training."""


def do(words: list[str], told: Path) -> Callable[[Callable[[Any], None]], int]:
    """In a child with limits: a command, whose standard error is kept in a file."""

    def work(report: Callable[[Any], None]) -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        errors = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with (
            open(1, "w", closefd=False) as output,
            open(2, "w", closefd=False) as errors_text,
            redirect_stdout(output),
            redirect_stderr(errors_text),
        ):
            return cli.entry_point(words)

    return work


def fault(code: int, said: str) -> str | None:
    """Why a command did not end as it should; None where it did."""
    if code not in (0, 1, 2):
        return f"ended with {code}: {said[-300:]}"
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    return (
        None if len(lines) == (code != 0) else f"exit code {code} and {len(lines)} errors: {said}"
    )


def as_processes(kept: list[tuple[str, int, bytes]], path: Path) -> Iterator[str]:
    """Run some of them as processes of their own. Yields where these end otherwise."""
    paths = os.pathsep.join((*sys.path, str(Path(__file__).parents[1])))
    environment = os.environ | {"PYTHONPATH": paths}
    for command, code, content in kept:
        path.write_bytes(content)
        words = [sys.executable, "-m", "kdcache", *commands(path)[command]]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        wrong = fault(done.returncode, done.stderr)
        if wrong or done.returncode != code:
            yield f"{command} as a process, where it was {code} before: {wrong or done.returncode}"
        for file in path.parent.glob("t.h5.*"):
            file.unlink()


def run(count: int, seed: int) -> Row:
    row = Row("Commands on forged but well-sealed caches: info, verify, train", count)
    torch.set_num_threads(1)
    generator = random.Random(seed)
    ends: Counter[str] = Counter()
    kept: dict[tuple[str, int], bytes] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(ShowTraining, on_tested=silent),
        replaced(registry, _OWN=(*registry._OWN, "tiny_models:")),
    ):
        path = Path(folder) / "t.h5"
        first_cache(path)
        forger = Forger(path, generator)
        for file in path.parent.glob("t.h5.*"):
            file.unlink()
        for number in range(count):
            kind, content = forger.forge()
            path.write_bytes(content)
            for command, words in commands(path).items():
                code, _ = fork(do(words, path.with_name("told"))).finish(2 * SECONDS)
                said = path.with_name("told").read_text(errors="replace")
                wrong = fault(code, said)
                if wrong:
                    row.violations.append(f"forgery {number} ({kind}), {command}: {wrong}")
                ends[f"{command} {'did its work' if code == 0 else 'refused'}"] += 1
                kept.setdefault((command, code), content)
            for file in path.parent.glob("t.h5.*"):
                file.unlink()
        some = [(command, code, content) for (command, code), content in kept.items()]
        row.violations += as_processes(some if count >= 500 else some[:1], path)
    row.outcome = ", ".join(f"{what} {times:,}" for what, times in sorted(ends.items()))
    row.outcome += f"; 0 tracebacks; {len(some)} also as processes" * (not row.violations)
    return row


if __name__ == "__main__":
    main(run, 20)
