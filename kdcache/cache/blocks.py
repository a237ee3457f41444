"""Blocks: what is computed, written and checked at a time, and what a kill can cost at most."""

from dataclasses import dataclass

from kdcache.cache.manifest import Manifest
from kdcache.config import SPLITS


@dataclass(frozen=True)
class BlockRows:
    """The views of one block: flat rows start..stop-1 of a split.

    A flat row is image_index * views + view_index.
    """

    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def rows_of_blocks(manifest: Manifest, block_bytes: int) -> list[BlockRows]:
    """The rows of each block, in the order of the blocks' numbers; none spans two splits."""
    block_rows = block_bytes // manifest.row_bytes
    blocks = []
    for name in SPLITS:
        split = manifest.splits[name]
        rows = split.rows * split.views
        for start in range(0, rows, block_rows):
            blocks.append(BlockRows(name, start, min(start + block_rows, rows)))
    return blocks
