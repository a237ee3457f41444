"""The readers of small records, fuzzed by Atheris: libFuzzer, guided by the lines that are reached.

The readers are those of fuzzing.py; of the probe, what its tensors say is read too. Each has a
corpus in corpus.zip: inputs that reach different lines of it. A layout record is given its CRC32
and a probe its SHA-256 before it is read, since nothing would get past them. A reader takes its
input or refuses it with the error that it names; any other error is a fault, and so is a record
that is another one when it is written and read again.

`python -m torture.guided --count 60` takes a minute for all of them; with --keep, corpus.zip holds
afterwards what was found, as few inputs as reach the same lines. Atheris is there on Linux.
"""

import argparse
import hashlib
import importlib.util
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from cache_makers import manifest_document

from kdcache.cache import open_cache
from kdcache.distill import load_or_fit_probe, probe_file
from torture.common import Job, Row
from torture.fuzzing import examples, read_file, read_manifest, read_record
from torture.sealer import pack_manifest, with_crc

CORPUS = Path(__file__).with_name("corpus.zip")
LAYOUT_BYTES = 252  # of a layout record before its CRC32
PACKAGE = str(Path(__file__).parents[2] / "kdcache")
COMMENT_BYTES = len("kdcache sha256 ") + 64  # at the end of a file of tensors
LARGEST = 16 << 10  # bytes of an input
# atheris has to be there before what it instruments is imported
INSTRUMENTED = """
import sys, atheris
with atheris.instrument_imports(include=["kdcache"]):
    from torture import guided
guided.search(atheris, sys.argv[1], sys.argv[2:])
"""

Read = Callable[[bytes], bool]


def read_json(kind: Any, text: bytes) -> bool:
    """Whether a record is taken."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return read_record(kind, document)


def with_digest(archive: bytes) -> bytes:
    """An archive of tensors, with the SHA-256 that its bytes ask for as its comment."""
    body = archive[:-2]  # without the length of a comment
    comment = b"kdcache sha256 " + hashlib.sha256(body + b"\0\0").hexdigest().encode()
    return body + struct.pack("<H", len(comment)) + comment


def readers(scratch: Path) -> dict[str, tuple[Read, bytes]]:
    """Of each reader what it does with some bytes, and bytes that it takes."""
    found: dict[str, tuple[Read, bytes]] = {
        name: (partial(read_json, kind), json.dumps(document).encode())
        for name, (kind, document) in examples().items()
    }
    found["manifest"] = read_manifest, pack_manifest(manifest_document())
    path, other = scratch / "t.h5", scratch / "u.h5"
    Job().fill(path)
    head, rest = path.read_bytes()[:LAYOUT_BYTES], path.read_bytes()[LAYOUT_BYTES + 4 :]
    found["layout record"] = (
        lambda record: read_file(other, open_cache, with_crc(record[:LAYOUT_BYTES]) + rest),
        head,
    )
    cache = open_cache(path)
    load_or_fit_probe(cache)
    probe = probe_file.probe_path(cache)
    found["probe"] = (
        lambda archive: read_file(
            probe, lambda _: probe_file.verify_probe(cache), with_digest(archive)
        ),
        probe.read_bytes()[: -COMMENT_BYTES - 2] + b"\0\0",
    )
    return found


def changed_json(text: bytes, seed: int) -> bytes:
    """A JSON text with one of its values replaced by another of them, or removed."""
    document, draw = json.loads(text), random.Random(seed)
    inside = [document]
    for one in inside:
        inside += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
    parent = draw.choice([one for one in inside if one and isinstance(one, dict | list)])
    place = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    if draw.random() < 0.2:
        del parent[place]
    else:
        parent[place] = draw.choice([*inside, None, -1, 0, 1.5, "", [], {}, 10**400])
    return json.dumps(document).encode()


def search(atheris: Any, name: str, options: Sequence[str]) -> None:
    """Fuzz one reader with libFuzzer's options; the process ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        read, _ = readers(Path(folder))[name]

        def mutate(data: bytes, largest: int, seed: int) -> bytes:
            if seed % 2 and data[:1] == b"{":
                try:
                    return changed_json(data, seed)[:largest]
                except (ValueError, IndexError, RecursionError):
                    pass
            return atheris.Mutate(data, largest)

        atheris.Setup([name, *options], read, custom_mutator=mutate)
        atheris.Fuzz()


def fuzz(name: str, corpus: Path, options: Sequence[str]) -> tuple[int, str | None]:
    """How many inputs one reader was given, and the fault where there was one.

    Args:
        corpus: folder of inputs; those that reach further lines are put there.
    """
    command = [sys.executable, "-c", INSTRUMENTED, name, *options, str(corpus)]
    tests = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True)
    runs = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    if runs is None:
        return 0, f"{done.stdout[-1500:]}\n{done.stderr[-500:]}"
    return int(runs[1]), None


def fewest(read: Read, inputs: Iterable[bytes]) -> list[bytes]:
    """As few of the inputs, the shortest first, as reach the same lines of the package."""
    seen: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if PACKAGE not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    kept, known = list[bytes](), 0
    for content in sorted(set(inputs), key=lambda content: (len(content), content)):
        sys.settrace(trace)
        try:
            read(content)
        finally:
            sys.settrace(None)
        if len(seen) > known:
            kept, known = [*kept, content], len(seen)
    return kept


def run(seconds: float, seed: int, keep: bool = False) -> Row:
    """Fuzz one reader after the other, for `seconds` in all; without Atheris, `read_corpus`."""
    if importlib.util.find_spec("atheris") is None:
        return read_corpus()
    row = Row("Readers fuzzed, guided by the lines that are reached", 0)
    kept = dict[str, list[bytes]]()
    with tempfile.TemporaryDirectory() as folder:
        targets = readers(Path(folder))
        each = max(1, int(seconds / len(targets)))
        options = [f"-max_total_time={each}", f"-seed={seed + 1}", f"-max_len={LARGEST}"]
        options += ["-timeout=20", f"-artifact_prefix={folder}/"]
        for name, (read, taken) in targets.items():
            corpus = Path(folder) / name
            corpus.mkdir()
            for number, content in enumerate([taken, *of_corpus(name)]):
                (corpus / f"{number}").write_bytes(content)
            count, fault = fuzz(name, corpus, options)
            row.count += count
            row.violations += [f"{name}: {fault}"] if fault else []
            if keep:
                kept[name] = fewest(read, (file.read_bytes() for file in corpus.iterdir()))
    if keep:
        write_corpus(kept)
    row.outcome = (
        f"{len(targets)} readers, {each} s each; no other error, and what was taken is read again"
        " the same"
    )
    return row


def read_corpus() -> Row:
    """Have the readers read what was found before."""
    row = Row("Readers given the inputs of a guided search (there is no Atheris here)", 0)
    ends: Counter[bool] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, (read, _) in readers(Path(folder)).items():
            for content in of_corpus(name):
                try:
                    ends[read(content)] += 1
                except Exception as error:
                    row.violations.append(f"{name}: {error!r:.300}")
    row.count = ends.total()
    row.outcome = f"{ends[True]} taken, {ends[False]} refused"
    return row


def of_corpus(name: str) -> list[bytes]:
    """The inputs that are kept for a reader."""
    with zipfile.ZipFile(CORPUS) as archive:
        return [archive.read(one) for one in archive.namelist() if one.startswith(f"{name}/")]


def write_corpus(inputs: dict[str, list[bytes]]) -> None:
    with zipfile.ZipFile(CORPUS, "w") as archive:
        for name, contents in inputs.items():
            for number, content in enumerate(contents):
                archive.writestr(zipfile.ZipInfo(f"{name}/{number}"), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=float, default=14, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="write corpus.zip anew")
    arguments = parser.parse_args()
    result = run(arguments.count, arguments.seed, arguments.keep)
    print(result)
    for violation in result.violations:
        print(violation, file=sys.stderr)
    sys.exit(bool(result.violations))
