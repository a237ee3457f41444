"""What a process does with memory that it freed."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

_FAULTS = """
import resource, torch
from kdcache.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.empty(256 << 20, dtype=torch.uint8).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for mebibytes in (160, 128, 96):
    torch.empty(mebibytes << 20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the system had to provide for tensors of 160, 128 and 96 MiB after one of 256 MiB that is gone."""
    code = _FAULTS.format(keep=keep)
    root = Path(__file__).parent.parent
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    assert faults(keep=True) < 48  # 384 MiB are 98,304 pages, or 192 huge ones
    assert faults(keep=False) >= 192
