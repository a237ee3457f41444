"""Fills a cache so that nothing finished is ever lost: block by block, and the seal at the end.

While it is being filled a cache is called `NAME.h5.partial`. Its HDF5 structure is complete and
never changes; the logits are written over the reserved space with `pwrite`. A block is finished
once a journal holds its CRC32. The file gets its final name when all blocks have been checked and
the seal is on the disk.
"""

import hashlib
import os
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np

from kdcache.cache.blocks import BlockRows, rows_of_blocks
from kdcache.cache.hdf5 import CRC_DTYPE, LOGITS_DTYPE, create_file
from kdcache.cache.journal import (
    Journal,
    finished_blocks,
    partial_path,
    refuse_other_runs,
    remove_journals,
    remove_stale_journals,
)
from kdcache.cache.manifest import Manifest
from kdcache.cache.reader import read_manifest, read_sealed_manifest
from kdcache.cache.seal import damaged, prepared_digest, read_layout, write_seal
from kdcache.errors import CacheDamagedError, DataError, OptionError
from kdcache.runtime import (
    SINGLE_PROCESS,
    Processes,
    make_folder,
    os_errors_as_data_errors,
    sync_data,
    sync_folder,
    write_all,
)

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class CacheWriter:
    """Writes one cache, going on where an earlier run of the same manifest stopped.

    Under torchrun every process makes one, with the same arguments, and fills its own part of the
    blocks.

    Args:
        path: the final name. Only files whose names begin with it are touched.
        manifest: all that shapes the numbers; a run is resumed only under an equal one.
        arrays: 'SPLIT/views' int16 `(N, V, 5)`, 'SPLIT/labels' int64 `(N,)` and
            'SPLIT/image_crc32' uint32 `(N,)` of every split.
        block_rows: views in one block.
        restart: discard what an interrupted run left, and replace a finished cache of another
            manifest.

    Attributes:
        complete: the finished cache is there already; nothing is to be done.
        missing: numbers of the blocks that this process has to compute.

    Raises OptionError where `path` belongs to another manifest or another run is writing it,
    CacheDamagedError where the unfinished file is damaged, and DataError where the disk has no
    room.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        arrays: dict[str, np.ndarray],
        *,
        block_rows: int,
        restart: bool = False,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.path = path
        self.missing: list[int] = []
        self._partial = partial_path(path)
        self._processes = processes
        self._fd = -1
        self._journal: Journal | None = None
        self.complete = processes.broadcast_object(lambda: _already_there(path, manifest, restart))
        if self.complete:
            processes.broadcast_object(lambda: remove_stale_journals(path))
            return
        try:
            create = partial(create_file, manifest=manifest, arrays=arrays, block_rows=block_rows)
            processes.broadcast_object(lambda: self._begin(manifest, create, restart))
            if not processes.is_main:
                self._open(manifest)
            self._layout = read_layout(self._fd, str(self._partial))
            self._blocks = self._layout.blocks()
            self._rows = rows_of_blocks(manifest, self._layout.block_bytes)
            finished = processes.broadcast_object(self._finished)
        except BaseException:
            self.close()
            raise
        missing = [block for block in range(len(self._blocks)) if block not in finished]
        self.missing = missing[processes.rank :: processes.world_size]

    def rows(self, block: int) -> BlockRows:
        """Which views a block holds."""
        return self._rows[block]

    def write(self, block: int, logits: np.ndarray) -> None:
        """Store the raw logits of one block; when this returns they are on the disk.

        Args:
            logits: float `(rows, C)`.

        Raises DataError where a logit is not finite or too large for float16, or the disk is full.
        """
        _refuse_what_float16_cannot_hold(logits, self._rows[block])
        data = np.ascontiguousarray(logits, LOGITS_DTYPE).tobytes()
        extent = self._blocks[block]
        if len(data) != extent.size:
            raise ValueError(f"expected {extent.size} bytes for block {block}, found {len(data)}")
        assert self._journal is not None
        with self._os_errors():
            write_all(self._fd, data, extent.offset)
            sync_data(self._fd)
            # Only now: a record promises that its block survives a loss of power.
            self._journal.append(block, zlib.crc32(data), self._layout)

    def seal(self) -> None:
        """When all processes are here: check all blocks, seal the file and give it its name.

        Raises CacheDamagedError where a block is no longer what was written.
        """
        self._processes.barrier()
        self._processes.broadcast_object(self._seal)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, manifest: Manifest, create: Callable[[Path], None], restart: bool) -> None:
        """In the main process: keep other runs away, and make the partial file or check it."""
        with self._os_errors():
            make_folder(self.path.parent)
            refuse_other_runs(self.path)
            self._journal = Journal(self.path, 0)
            if restart or not self._partial.exists():
                self._journal.clear()
                self._make(create)
            self._open(manifest)

    def _make(self, create: Callable[[Path], None]) -> None:
        """Make the partial file under a temporary name: what bears the partial one is whole."""
        remove_journals(self.path, keep=0)
        self._partial.unlink(missing_ok=True)
        temporary = Path(f"{self._partial}.tmp")
        try:
            create(temporary)
            os.rename(temporary, self._partial)
        except BaseException:
            temporary.unlink(missing_ok=True)
            remove_journals(self.path)
            raise

    def _open(self, manifest: Manifest) -> None:
        """Open the partial file, which must be intact and of this manifest, and the journal."""
        with self._os_errors():
            if self._journal is None:
                self._journal = Journal(self.path, self._processes.rank)
            self._journal.drop_torn_record()
            self._fd = os.open(self._partial, os.O_RDWR | os.O_NOFOLLOW)
            # The names of both: without them a loss of power could take finished blocks.
            sync_folder(self.path.parent)
        layout = read_layout(self._fd, str(self._partial))
        if prepared_digest(self._fd, layout) != layout.digest:
            raise CacheDamagedError(
                "an intact unfinished cache",
                f"{self._partial} damaged",
                "discard it with --restart",
            )
        found = read_manifest(self._fd, layout, str(self._partial))
        _refuse_another(found, manifest, self._partial)

    def _finished(self) -> set[int]:
        blocks = finished_blocks(self.path, self._fd, self._layout)
        return {block for block, _, _ in blocks}

    def _seal(self) -> None:
        """In the main process, once all have filled their blocks."""
        with self._os_errors():
            table, logits = self._checked_digests()
            write_all(self._fd, table.tobytes(), self._layout.block_crc32.offset)
            write_seal(self._fd, self._layout, logits)
            os.fsync(self._fd)
            os.rename(self._partial, self.path)
            sync_folder(self.path.parent)
            # The journals go last, once the name is on the disk: until then they are needed.
            remove_journals(self.path)
            sync_folder(self.path.parent)

    def _checked_digests(self) -> tuple[np.ndarray, bytes]:
        """Read and check all blocks.

        Returns the CRC32 of each, uint32 `(blocks,)`, and the SHA-256 of all, which no process
        could compute while it wrote: each has only some of them, and not in their order.
        """
        os.close(self._fd)
        self._fd = -1
        # opened anew: it shows what others wrote
        self._fd = os.open(self._partial, os.O_RDWR | os.O_NOFOLLOW)
        table, sha = np.zeros(len(self._blocks), CRC_DTYPE), hashlib.sha256()
        found = 0
        for block, crc32, data in finished_blocks(self.path, self._fd, self._layout):
            if block != found:
                break
            table[block] = crc32
            sha.update(data)
            found += 1
        if found < len(self._blocks):
            where = f"block {found}, which was right when it was written"
            raise damaged(str(self._partial), where)
        return table, sha.digest()

    def _os_errors(self) -> AbstractContextManager[None]:
        return os_errors_as_data_errors(f"{self.path}", "free some space or give another --cache")


def _already_there(path: Path, manifest: Manifest, restart: bool) -> bool:
    """Whether `path` is the finished cache of this manifest; refuse one of another."""
    if restart or not path.exists():
        return False
    _refuse_another(read_sealed_manifest(path), manifest, path)
    return True


def _refuse_another(found: Manifest, manifest: Manifest, path: Path) -> None:
    differences = found.differences(manifest)
    if differences:
        raise OptionError(
            "the options that the cache was begun with",
            f"{path} with other ones ({'; '.join(differences[:3])})",
            "give another --cache, or --restart to discard what is there",
        )


def _refuse_what_float16_cannot_hold(logits: np.ndarray, rows: BlockRows) -> None:
    bad = ~(np.abs(logits) <= _FLOAT16_MAX)  # so put, it is true of NaN too
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"finite teacher logits within +-{_FLOAT16_MAX:g}",
            f"{logits[row, column]} in class {column} of {rows.split} row {rows.start + row}",
            "try --precision fp32 or check the teacher's weights",
        )
