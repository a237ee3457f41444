"""The probe beside its cache: read back as it was; fitted again where it is damaged or forged."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_makers import flip, reverse_logits
from commands import run

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.distill import probe_file
from kdcache.distill.probe import PENALTIES, QUALITY, fit_probe
from kdcache.errors import DataError
from kdcache.runtime import save_tensors


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
    assert read.penalty in PENALTIES


@pytest.mark.parametrize(
    "name",
    [
        "fingerprint",
        "content",
        "mean",
        "scale",
        "weight",
        "fold",
        "temperature",
        "penalty",
        *QUALITY,
    ],
)
@pytest.mark.parametrize(
    "forge",
    [
        lambda tensor: None,
        lambda tensor: tensor[..., None],
        lambda tensor: tensor.flatten()[:0],
        lambda tensor: tensor.to(torch.int16),
        lambda tensor: tensor.clone().to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 255),
    ],
    ids=["missing", "another dimension", "empty", "another type", "sparse", "no numbers", "absurd"],
)
def test_a_forged_one_is_replaced(
    kept: Path,
    name: str,
    forge: Callable[[torch.Tensor], torch.Tensor | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = torch.load(kept)
    state[name] = forge(state[name])
    if name == "content" and state[name] is None:
        pytest.skip("0.1.0 did not write it")
    torch.save({key: value for key, value in state.items() if value is not None}, kept)
    assert fits(kept, monkeypatch) == 1
    assert fits(kept, monkeypatch) == 0


@pytest.mark.parametrize("name", ["scale", "temperature", "penalty"])
def test_so_is_one_that_would_divide_by_zero(
    name: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(kept)
    save_tensors(kept, state | {name: torch.zeros_like(state[name])})
    assert fits(kept, monkeypatch) == 1


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


def test_one_of_other_logits_is_replaced(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest, and so the fingerprint and the file's name, may stay the same."""
    reverse_logits(kept.parent / "copy.h5")
    assert fits(kept, monkeypatch) == 1
    assert fits(kept, monkeypatch) == 0


def test_it_is_fitted_on_the_training_split_and_judged_on_the_validation_split(kept: Path) -> None:
    cache = open_cache(kept.parent / "copy.h5")
    train, validation = cache.splits["train"], cache.splits["validation"]
    expected = fit_probe(
        torch.tensor(train.logits),
        torch.tensor(train.labels),
        torch.tensor(validation.logits)[:, 0],
        torch.tensor(validation.labels),
        classes=len(cache.manifest.dataset.class_names),
        seed=0,
    )
    found = probe_file.load_or_fit_probe(cache)
    for name in ("mean", "scale", "weight", "fold"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.validation == expected.validation


def test_its_name_and_content_are_told_by_the_cache(kept: Path) -> None:
    cache = open_cache(kept.parent / "copy.h5")
    assert kept == cache.path.with_name(f"copy.h5.probe-{cache.fingerprint[:16]}.pt")
    tensors = torch.load(kept)
    assert bytes(tensors["fingerprint"].tolist()).hex() == cache.fingerprint
    assert bytes(tensors["content"].tolist()).hex() == cache.content_digest


def test_a_folder_that_cannot_be_written_is_no_fault(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, state: object) -> None:
        raise DataError("room", "none", "free some")

    kept.unlink()
    monkeypatch.setattr(probe_file, "save_tensors", refused)
    assert fits(kept, monkeypatch) == 1
    assert not kept.exists()
    assert probe_file.verify_probe(open_cache(kept.parent / "copy.h5")) is None


class TestVerify:
    def said(self, kept: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
        capsys.readouterr()
        assert run(main, "verify", kept.parent / "copy.h5") == code
        output = capsys.readouterr()
        return (output.err if code else output.out).splitlines()[-1]

    def test_a_sound_one(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.said(kept, capsys, 0) == f"{kept}: the probe fitted on these logits"

    def test_none(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        kept.unlink()
        assert "every byte is the one that was written" in self.said(kept, capsys, 0)

    def test_one_flipped_bit_in_its_weights(
        self, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        weight = torch.load(kept)["weight"].numpy().tobytes()
        flip(kept, kept.read_bytes().index(weight) + len(weight) // 2, 0x40)
        assert self.said(kept, capsys, 1) == (
            f"error: expected the probe of {kept.parent / 'copy.h5'}; found {kept}, which is"
            " damaged: its SHA-256 is not the one that was recorded;"
            " remove it: it is fitted again when it is needed"
        )

    def test_one_of_other_logits(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        reverse_logits(kept.parent / "copy.h5")
        assert f"found {kept}, which was fitted on other logits;" in self.said(kept, capsys, 1)

    def test_one_of_another_cache(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_tensors(kept, torch.load(kept) | {"fingerprint": torch.zeros(32, dtype=torch.uint8)})
        assert (
            f"found {kept}, which is of another cache;"
            " remove it: it is fitted again when it is needed"
        ) in self.said(kept, capsys, 1)

    @pytest.mark.parametrize("content", [[1], {"mean": 1}, torch.zeros(3)], ids=str)
    def test_something_else(
        self, content: Any, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_tensors(kept, content)
        assert f"found {kept}, which holds something else;" in self.said(kept, capsys, 1)

    def test_one_of_0_1_0(self, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tensors = torch.load(kept)
        del tensors["content"]
        torch.save(tensors, kept)
        assert "0.1.0 did not record of which logits" in self.said(kept, capsys, 0)
