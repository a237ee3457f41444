"""The torture scripts with small counts and a fixed seed; they notice what is broken.

docs/torture.md has the large counts.
"""

from collections.abc import Callable
from typing import Any

import pytest
from torture import (
    corruption,
    full_disk,
    headers,
    kills,
    power_loss,
    races,
    strangers,
    students,
    syscalls,
)
from torture.common import Row, replaced

from kdcache.cache import reader, writer
from kdcache.cache.seal import Seal

SEED = 20
_begin = writer.CacheWriter._begin


def forgetting(self: writer.CacheWriter, manifest: Any, create: Any, restart: bool) -> None:
    _begin(self, manifest, create, restart=True)


@pytest.mark.parametrize(
    ("script", "count"),
    [
        (kills, 30),
        (syscalls, 60),
        (power_loss, 300),
        (corruption, 2000),
        (headers, 60),
        (strangers, 25),
        (races, 30),
        (students, 5),
    ],
    ids=lambda value: getattr(value, "__name__", "").removeprefix("torture."),
)
def test_nothing_wrong_is_ever_read_and_the_work_goes_on(script: Any, count: int) -> None:
    assert script.run(count, SEED).violations == []


@pytest.mark.parametrize(
    "in_earnest", [True, False], ids=["tmpfs, where one may be mounted", "feigned"]
)
def test_a_full_disk_is_refused_in_one_line(in_earnest: bool) -> None:
    row = full_disk.run(30, SEED, in_earnest)
    assert row.violations == [] and "refused before any block" in row.outcome


@pytest.mark.parametrize(
    ("run", "owner", "broken", "noticed"),
    [
        (
            lambda: power_loss.run(200, SEED),
            writer,
            {"sync_folder": lambda folder: None},
            "are lost",
        ),
        (
            lambda: corruption.run(200, SEED),
            reader,
            {"check_seal": lambda *arguments: Seal(bytes(32), bytes(32))},
            "goes unnoticed",
        ),
        (
            lambda: headers.run(5, SEED),
            reader,
            {"check_seal": lambda *arguments: Seal(bytes(32), bytes(32))},
            "libhdf5 was given a damaged file",
        ),
        (
            lambda: kills.run(10, SEED),
            writer.CacheWriter,
            {"_begin": forgetting},
            "had been finished",
        ),
        (
            lambda: syscalls.run(50, SEED),
            writer,
            {"write_seal": lambda fd, layout, logits: None},
            "exists and is refused",
        ),
    ],
    ids=[
        "names not synchronised",
        "seal not checked",
        "seal not checked before libhdf5",
        "always anew",
        "not sealed",
    ],
)
def test_what_is_broken_on_purpose_is_noticed(
    run: Callable[[], Row], owner: Any, broken: dict[str, Any], noticed: str
) -> None:
    with replaced(owner, **broken):
        assert noticed in " ".join(run().violations)
