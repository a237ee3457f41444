"""HDF5 structure that is not what kdcache wrote: by damage, or by a forger, who seals it again.

Damage, ten times `--count` files: random bytes of HDF5's own structure change under a seal that
does not; they must be refused before libhdf5 is called at all. Forgery, `--count` files: structure,
manifest or layout record change and every checksum and the seal are made anew (sealer.py), so that
libhdf5 parses them. Each is opened in a forked child with the limits of `verify --untrusted`; one
of a hundred, those that took their child down first, also by that command itself. A forged file may
be refused by name, open unchanged, or open with the numbers that it now holds; what takes the child
down is counted. Not simulated: structures made by someone who knows a
hole of libhdf5.
"""

import os
import random
import re
import resource
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from kdcache import cli
from kdcache.cache.reader import open_cache
from kdcache.cache.seal import USER_BLOCK
from kdcache.errors import KdcacheError
from torture.common import HUNG, Job, Row, fork, main, replaced
from torture.sealer import record_of, seal

JOB = Job()
CPU_SECONDS, MEMORY = 5, 16 << 30
MEMBERS = ("logits", "views", "labels", "image_crc32")
EXTREMES = (
    0,
    1,
    7,
    511,
    512,
    2**16 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 8,
    2**64 - 1,
)
TOKENS = (
    b"NaN",
    b"-1",
    b"0",
    b"1e999",
    b"true",
    b"null",
    b'"\\ud800"',
    b"[[[",
    b"{}",
    b"9" * 9,
    b"\xff",
    b"1.0",
)


def structure(path: Path) -> list[int]:
    """Places of all bytes that are HDF5's own: neither in the user block nor in a dataset."""
    free = np.ones(path.stat().st_size, bool)
    free[:USER_BLOCK] = False
    with h5py.File(path, "r") as file:
        for split in JOB.logits:
            for dataset in (
                *(file[split][member] for member in MEMBERS),
                file["manifest"],
                file["block_crc32"],
            ):
                free[dataset.id.get_offset() :][: dataset.id.get_storage_size()] = False
    return np.flatnonzero(free).tolist()


def alter(bad: bytearray, places: list[int], generator: random.Random) -> None:
    """Change structure at one place or a few.

    That is a bit, a byte, a number of 2, 4 or 8 bytes, or a copy of another part.
    """
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        place = generator.choice(places)
        match generator.randrange(4):
            case 0:
                bad[place] ^= 1 << generator.randrange(8)
            case 1:
                bad[place] = generator.randrange(256)
            case 2:
                width = generator.choice((2, 4, 8))
                new = struct.pack(
                    "<Q", generator.choice((*EXTREMES, len(bad), generator.randrange(len(bad))))
                )[:width]
                bad[place : place + width] = new if place + width <= len(bad) else bad[place:]
            case _:
                source, width = generator.choice(places), generator.choice((1, 4, 8, 24))
                bad[place : place + width] = bad[source : source + len(bad[place : place + width])]


def forge(good: bytes, path: Path, places: list[int], generator: random.Random) -> str:
    """Write a forged file whose every checksum is right. Returns what was forged."""
    bad, record = bytearray(good), record_of(good)
    kind = generator.choices(("structure", "manifest", "layout"), (8, 1, 1))[0]
    offset, size = record.extents[0]
    if kind == "structure":
        alter(bad, places, generator)
    elif kind == "manifest":
        value = generator.choice(list(re.finditer(rb'"[^"]*"|\d+', good[offset : offset + size])))
        token = generator.choice([token for token in TOKENS if len(token) <= len(value[0])])
        start = offset + value.start()
        bad[start : start + len(value[0])] = token.ljust(len(value[0]))
    else:
        sizes = (record.block_bytes * 2, record.block_bytes + 1, generator.randrange(len(good)))
        number = generator.choice((*EXTREMES[:-2], *sizes))
        manifest, table, *logits = record.extents
        record = generator.choice(
            (
                replace(record, file_size=number),
                replace(record, block_bytes=number),
                replace(record, extents=((number, manifest[1]), table, *logits)),
                replace(record, extents=(manifest, (number, table[1]), *logits)),
                replace(record, extents=(manifest, table, *logits[:2])),
                replace(record, extents=(manifest, table, *logits[::-1])),
                replace(record, extents=(manifest, table, *logits, (number, 0))),
            )
        )
    seal(bad, record)
    path.write_bytes(bad)
    return kind


def look_at(path: Path, original: bytes, report: Callable[[Any], None]) -> None:
    """In a child with limits: open the file and say how that went."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        cache = open_cache(path)
    except KdcacheError as error:
        report(
            "refused by name" if str(path) in str(error) else f"refused without its name: {error}"
        )
    except Exception as error:
        report(f"raised {error!r}"[:200])
    else:
        arrays = {
            (split, member): getattr(part, member)
            for split, part in cache.splits.items()
            for member in MEMBERS
        }
        if path.read_bytes()[USER_BLOCK:] == original[USER_BLOCK:] or JOB.holds(path):
            return report("opened unchanged")
        with h5py.File(path, "r") as file:
            says = all(
                np.array_equal(array, file[f"{split}/{member}"][...])
                for (split, member), array in arrays.items()
            )
        report("opened with the numbers it holds" if says else "opened with wrong numbers")


def forbidden(*arguments: Any, **named: Any) -> NoReturn:
    raise AssertionError("libhdf5 was given a damaged file")


def damage(
    count: int, path: Path, good: bytes, places: list[int], generator: random.Random
) -> Iterator[str]:
    """Give `open_cache` damaged files, and nothing to call HDF5 with. Yields what went wrong."""
    with replaced(h5py, File=forbidden):
        for number in range(count):
            bad = bytearray(good)
            while bad == good:
                alter(bad, places, generator)
            path.write_bytes(bad)
            try:
                open_cache(path)
                yield f"damage {number} goes unnoticed"
            except (KdcacheError, AssertionError) as error:
                if not isinstance(error, KdcacheError) or str(path) not in str(error):
                    yield f"damage {number}: {error}"


def by_command(forged: list[tuple[str, bytes]], path: Path) -> Iterator[str]:
    """Give forged files to `verify --untrusted`. Yields where its child differs."""
    for end, content in forged:
        path.write_bytes(content)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            code = cli.entry_point(["verify", str(path), "--untrusted"])
        if end.startswith("opened") != (code == 0):
            yield f"{end}, but the command ends with {code}"


def run(count: int, seed: int) -> Row:
    row = Row(
        "HDF5 structure damaged, or forged with every checksum and the seal made anew", 11 * count
    )
    generator = random.Random(seed)
    ends: Counter[str] = Counter()
    kept: dict[str, list[tuple[str, bytes]]] = {"died": [], "hung": [], "refused": [], "opened": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.h5"
        JOB.fill(path)
        good, places = path.read_bytes(), structure(path)
        row.violations += damage(10 * count, path, good, places, generator)
        for number in range(count):
            kind = forge(good, path, places, generator)
            code, said = fork(lambda report: look_at(path, good, report)).finish(2 * CPU_SECONDS)
            hung = code in (HUNG, -signal.SIGXCPU, -signal.SIGKILL)
            end = (
                said[0]
                if code == 0
                else "hung"
                if hung
                else f"died of signal {-code}"
                if code < 0
                else f"exit code {code}"
            )
            ends[end] += 1
            if end.split(" ")[0] in kept:
                kept[end.split(" ")[0]].append((end, path.read_bytes()))
            if not end.startswith(
                ("refused by name", "opened unchanged", "opened with the", "hung", "died")
            ):
                row.violations.append(f"forgery {number} ({kind}): {end}")
        some = kept["died"][:5] + kept["hung"][:1] + kept["opened"][:5] + kept["refused"]
        verified = some[: count // 100]
        row.violations += by_command(verified, path) if verified else []
    row.outcome = (
        f"{10 * count:,} damaged files refused by name before libhdf5; {count:,} forged ones: "
    )
    row.outcome += ", ".join(f"{times:,} {end}" for end, times in ends.most_common())
    row.outcome += (
        f"; {len(verified)} of these also by `verify --untrusted`, which says the same"
        if verified
        else ""
    )
    return row


if __name__ == "__main__":
    main(run, 60)
