"""The torture scripts with small counts and a fixed seed; they notice what is broken.

docs/torture.md has the large counts.
"""

import os
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torture import (
    corruption,
    damage,
    errors,
    full_disk,
    fuzzing,
    guided,
    headers,
    kills,
    power_loss,
    races,
    scripts,
    strangers,
    students,
    syscalls,
)
from torture.common import Row, replaced

from kdcache.cache import reader, seal, writer
from kdcache.cache.seal import Seal
from kdcache.distill import matching, probe_file
from kdcache.runs import folder
from kdcache.runtime import files

SEED = 20
_begin = writer.CacheWriter._begin
_fstat = os.fstat


def forgetting(self: writer.CacheWriter, manifest: Any, create: Any, restart: bool) -> None:
    _begin(self, manifest, create, restart=True)


def ignoring_what_is_appended(fd: int, name: str) -> seal.Layout:
    """A reader that asks for all bytes that the layout announces, and not for the end there."""
    (written,) = struct.unpack_from("<Q", os.pread(fd, 24, 0).ljust(24), 16)

    def fstat(fd: int) -> Any:
        found = _fstat(fd)
        return SimpleNamespace(st_size=min(found.st_size, written), st_mode=found.st_mode)

    with replaced(os, fstat=fstat):
        return seal.read_layout(fd, name)


@pytest.mark.parametrize(
    ("script", "count"),
    [
        (kills, 30),
        (syscalls, 60),
        (power_loss, 300),
        (corruption, 2000),
        (headers, 60),
        (strangers, 8),
        (races, 30),
        (students, 5),
        (scripts, 3),
        (damage, 480),
        (fuzzing, 210),
    ],
    ids=lambda value: getattr(value, "__name__", "").removeprefix("torture."),
)
def test_nothing_wrong_is_ever_read_and_the_work_goes_on(script: Any, count: int) -> None:
    assert script.run(count, SEED).violations == []


@pytest.mark.parametrize(
    ("run", "count"),
    [(syscalls.run_commands, 8), (power_loss.run_commands, 8), (errors.run, 8)],
    ids=["syscalls", "power_loss", "errors"],
)
def test_so_it_is_with_the_commands_of_both_phases(run: Any, count: int) -> None:
    assert run(count, SEED).violations == []


def test_what_a_guided_search_found_is_taken_or_refused() -> None:
    row = guided.read_corpus()
    assert row.violations == [] and row.count > 50
    assert " 0 " not in f" {row.outcome}"


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
            lambda: power_loss.run_commands(20, SEED),
            files,
            {"sync_folder": lambda folder: None},
            "is lost",
        ),
        (
            lambda: damage.run(480, SEED),
            folder,
            {"check_digest": lambda document, known: None},
            "accepted",
        ),
        (
            lambda: corruption.run(200, SEED),
            reader,
            {"check_seal": lambda *arguments: Seal(bytes(32), bytes(32))},
            "goes unnoticed",
        ),
        (
            lambda: corruption.run(200, SEED),
            reader,
            {"read_layout": ignoring_what_is_appended},
            "appended goes unnoticed",
        ),
        (
            guided.read_corpus,
            probe_file,
            {"verify_probe": lambda cache: struct.unpack("<I", b"")},
            "probe: error('unpack",
        ),
        (
            lambda: strangers.run(6, SEED),
            matching,
            {"check_images_match": lambda *arguments: 1 // 0},
            "ended with 70",
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
        "names of a run not synchronised",
        "digests of a run's records not checked",
        "seal not checked",
        "appended bytes ignored",
        "another error of a reader",
        "a traceback of a command",
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
