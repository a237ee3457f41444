"""Processes that wait for and tell each other: one, two of gloo's, and one whose peer has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdcache.errors import DataError, PeerError
from kdcache.runtime import SINGLE_PROCESS, Processes, distributed

ROOT = Path(__file__).parent.parent.parent
TWO = """
import sys
import torch
from kdcache.errors import DataError
from kdcache.runtime import distributed

processes = distributed.init()
rank = processes.rank
rows = torch.arange(10).view(5, 2)
shard = processes.shard(rows)
assert len(shard) == (3, 2)[rank]
assert torch.equal(processes.all_gather(shard), rows)
assert processes.all_reduce(torch.tensor([1.0 + rank])).item() == 3
tensor = torch.full((2,), float(rank))
processes.broadcast_tensors([tensor])
assert tensor.tolist() == [0, 0]
assert processes.broadcast_object(lambda: f"from {rank}") == "from 0"

def refuse():
    raise DataError("images", "none", "give some")

try:
    processes.broadcast_object(refuse)
except DataError as error:
    assert error.found == "none"
else:
    raise AssertionError
order = []
processes.main_process_first(lambda: order.append(rank))
assert processes.is_main == (rank == 0)
processes.barrier()
distributed.destroy()
sys.stdout.write(f"{rank} of {processes.world_size}\\n")
"""


def run_two(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "job.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(folder / "job.py")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_two_processes(tmp_path: Path) -> None:
    done = run_two(TWO, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 of 2", "1 of 2"]


def test_a_single_process_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = distributed.init()
    assert processes == SINGLE_PROCESS == Processes(0, 1, 0)
    rows = torch.arange(3)
    assert torch.equal(processes.shard(rows), rows)
    assert torch.equal(processes.all_gather(rows), rows)
    assert torch.equal(processes.all_reduce(rows), rows)
    assert processes.broadcast_object(lambda: 7) == 7
    assert processes.main_process_first(lambda: 8) == 8
    processes.broadcast_tensors([rows])
    processes.barrier()
    distributed.destroy()


def test_an_error_of_a_single_process_is_its_own() -> None:
    def refuse() -> None:
        raise DataError("images", "none", "give some")

    with pytest.raises(DataError):
        SINGLE_PROCESS.broadcast_object(refuse)


def test_a_peer_that_has_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: object, **named: object) -> None:
        raise RuntimeError("[gloo] Connection closed by peer\nmore lines")

    monkeypatch.setattr(torch.distributed, "barrier", closed)
    with pytest.raises(PeerError) as error:
        Processes(1, 2, 1).barrier()
    assert str(error.value) == (
        "expected every process to reach the end;"
        " found one that ended early ([gloo] Connection closed by peer);"
        " see its own message; the same command, with any number of processes, goes on"
    )
