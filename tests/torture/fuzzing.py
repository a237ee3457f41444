"""The readers of small records, fuzzed: a manifest, a run's records, a layout record, a probe.

Hypothesis makes the inputs: records of 0.1.0 (tests/data) and of today with one to three of their
values replaced, removed or made up, any JSON in their place, and files with any bytes over theirs.
A reader takes its input or refuses it with the error that it names; any other error is a fault, and
so is a record that is another one when it is written and read again. No coverage guides the search.
"""

import copy
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cache_makers import manifest_document
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from kdcache.cache import open_cache
from kdcache.cache.manifest import Manifest
from kdcache.errors import KdcacheError
from kdcache.models import StudentCard
from kdcache.runs import EpochRecord, RunConfig, RunSummary
from kdcache.runtime import load_tensors, save_tensors
from torture.common import Job, Row, main
from torture.sealer import pack_manifest

V01 = Path(__file__).parents[1] / "data" / "v0.1" / "finished"
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from((-1, 0, 2**31, 2**63, 10**400, 1e308, math.nan, "f" * 64, "a:b", ""))
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)


def examples() -> dict[str, tuple[Any, Any]]:
    """The kind and one document of each record."""
    line = (V01 / "metrics.jsonl").read_text().splitlines()[0]
    kinds: dict[str, Any] = {"config": RunConfig, "summary": RunSummary, "student": StudentCard}
    found = {
        name: (kind, json.loads((V01 / f"{name}.json").read_text())) for name, kind in kinds.items()
    }
    found["epoch"] = (EpochRecord, json.loads(line))
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document with some of its values replaced or removed."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        parents: list[Any] = [found]
        for parent in parents:
            inside = parent.values() if isinstance(parent, dict) else parent
            parents += [one for one in inside if isinstance(one, dict | list) and one]
        parent = draw(st.sampled_from([one for one in parents if one]))
        place = draw(
            st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent)))
        )
        if draw(st.booleans()):
            parent[place] = draw(JSON)
        elif len(found) > 1:
            del parent[place]
    return found


def read_record(kind: Any, document: Any) -> bool:
    """Whether a record is taken."""
    try:
        record = kind.from_json(document)
    except ValueError:
        return False
    again = kind.from_json(json.loads(json.dumps(record.to_json())))
    assert repr(again) == repr(record), "written and read again, it is another record"
    return True


def read_manifest(text: bytes) -> bool:
    """Whether a manifest is taken."""
    try:
        manifest = Manifest.parse(text)
    except ValueError:
        return False
    assert Manifest.parse(manifest.to_bytes()) == manifest, "it is another manifest"
    return True


def read_packed(document: Any) -> bool:
    """The same of what its JSON stands for, where it can be written down."""
    try:
        text = pack_manifest(document)
    except (ValueError, RecursionError):
        return False
    return read_manifest(text)


def overwritten(content: bytes) -> st.SearchStrategy[bytes]:
    """A file's bytes with others over some of them, or cut short."""
    return st.builds(
        lambda place, piece, end: (content[:place] + piece + content[place + len(piece) :])[:end],
        st.integers(0, len(content)),
        st.binary(min_size=1, max_size=40),
        st.just(None) | st.integers(0, len(content)),
    )


def read_file(path: Path, read: Callable[[Path], Any], content: bytes) -> bool:
    """Whether a file of these bytes is taken."""
    path.write_bytes(content)
    try:
        read(path)
    except KdcacheError:
        return False
    return True


def fuzz(
    inputs: st.SearchStrategy[Any], read: Callable[[Any], bool], count: int, start: int
) -> tuple[Counter[bool], str | None]:
    """What became of the inputs, and the first fault."""
    ends: Counter[bool] = Counter()

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Stage.generate, Stage.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def once(value: Any) -> None:
        ends[read(value)] += 1

    try:
        once()
    except Exception as error:
        return ends, f"{error!r:.300}"
    return ends, None


def run(count: int, seed: int) -> Row:
    row = Row("Fuzzed readers: manifest, layout record, runs' records, probe", count)
    total: Counter[bool] = Counter()
    with tempfile.TemporaryDirectory() as name:
        cache, probe = Path(name) / "t.h5", Path(name) / "probe.pt"
        Job().fill(cache)
        head, rest = cache.read_bytes()[:4096], cache.read_bytes()[4096:]
        save_tensors(probe, {"weight": torch.arange(6.0).reshape(2, 3), "fold": torch.ones(2)})
        load = partial(load_tensors, device=torch.device("cpu"))
        jobs = {
            what: (changed(document) | JSON, partial(read_record, kind))
            for what, (kind, document) in examples().items()
        }
        jobs["manifest"] = (changed(manifest_document()) | JSON, read_packed)
        jobs["layout record"] = (
            overwritten(head).map(lambda changed: changed + rest),
            partial(read_file, Path(name) / "u.h5", open_cache),
        )
        jobs["probe"] = (
            overwritten(probe.read_bytes()),
            partial(read_file, Path(name) / "v.pt", load),
        )
        for what, (inputs, read) in jobs.items():
            ends, fault = fuzz(inputs, read, count // len(jobs), seed)
            total += ends
            row.violations += [f"{what}: {fault}"] if fault else []
    row.count = total.total()
    row.outcome = (
        f"{total[True]:,} taken, {total[False]:,} refused; no other error, and what was taken is"
        " the same when it is written and read again"
    )
    return row


if __name__ == "__main__":
    main(run, 2000)
