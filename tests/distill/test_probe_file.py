"""The probe beside its cache: read back as it was; fitted again where it is damaged or forged."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdcache.cache import open_cache
from kdcache.distill import probe_file
from kdcache.distill.probe import QUALITY


@pytest.fixture
def kept(shapes_cache: Path, tmp_path: Path) -> Path:
    """A sound sidecar, beside copy.h5."""
    copy = tmp_path / "copy.h5"
    shutil.copyfile(shapes_cache, copy)
    probe_file.load_or_fit_probe(open_cache(copy))
    return probe_file.probe_path(open_cache(copy))


def fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the probe is fitted when this sidecar's cache is asked for a sound one."""
    calls = []
    real = probe_file.fit_probe
    monkeypatch.setattr(
        probe_file,
        "fit_probe",
        lambda *arguments, **seed: calls.append(1) or real(*arguments, **seed),
    )
    probe = probe_file.load_or_fit_probe(open_cache(path.parent / "copy.h5"))
    assert probe.weight.isfinite().all() and probe.validation["nll"] > 0
    return len(calls)


def test_a_sound_one_is_read_back_as_it_was(
    kept: Path, shapes_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fits(kept, monkeypatch) == 0
    fitted, read = (
        probe_file.load_or_fit_probe(open_cache(shapes_cache)),
        probe_file.load_or_fit_probe(open_cache(kept.parent / "copy.h5")),
    )
    for name in ("mean", "scale", "weight", "fold"):
        assert torch.equal(getattr(read, name), getattr(fitted, name)), name
    assert (read.temperature, read.penalty, read.validation) == (
        fitted.temperature,
        fitted.penalty,
        fitted.validation,
    )


@pytest.mark.parametrize(
    "name",
    ["fingerprint", "mean", "scale", "weight", "fold", "temperature", "penalty", *QUALITY],
)
@pytest.mark.parametrize(
    "forge",
    [
        lambda tensor: None,
        lambda tensor: tensor[..., None],
        lambda tensor: tensor.flatten()[:0],
        lambda tensor: tensor.to(torch.int16),
        lambda tensor: tensor.clone().to_sparse(),
        lambda tensor: torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 255),
    ],
    ids=["missing", "another dimension", "empty", "another type", "sparse", "absurd"],
)
def test_a_forged_one_is_replaced(
    kept: Path,
    name: str,
    forge: Callable[[torch.Tensor], torch.Tensor | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = torch.load(kept)
    state[name] = forge(state[name])
    torch.save({key: value for key, value in state.items() if value is not None}, kept)
    assert fits(kept, monkeypatch) == 1
    assert fits(kept, monkeypatch) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", pickle.dumps({"mean": 1})])
def test_a_damaged_one_is_replaced(
    kept: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_bytes(content)
    assert fits(kept, monkeypatch) == 1
    assert fits(kept, monkeypatch) == 0


def test_a_tensor_too_many_is_no_probe(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.load(kept) | {"more": torch.zeros(1)}, kept)
    assert fits(kept, monkeypatch) == 1
