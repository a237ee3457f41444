"""What version 0.1.0 left is read, verified, resumed, compared, predicted from and exported.

`data/v0.1` was made by its scripts; `expected.json` there is what it said of these files. The
folder is copied before it is used, because resuming writes and all recorded paths are relative to
it.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refused, run

import train_student
from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.distill import load_images_of, load_or_fit_probe
from kdcache.export import open_run
from kdcache.models import state_digest
from kdcache.report import summarize_cache
from kdcache.runs import find_runs, read_config, read_history, read_run

V01 = Path(__file__).parent / "data" / "v0.1"
EXPECTED: dict[str, Any] = json.loads((V01 / "expected.json").read_text())
SAME_TORCH = EXPECTED["made_with"]["torch"] == torch.__version__


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, beside which the process runs."""
    shutil.copytree(V01, tmp_path / "v0.1")
    monkeypatch.chdir(tmp_path)
    return Path("v0.1")


class TestCache:
    def test_its_bytes_and_numbers(self, here: Path) -> None:
        cache, expected = open_cache(here / "teacher.h5"), EXPECTED["cache"]
        assert cache.fingerprint == cache.manifest.fingerprint == expected["fingerprint"]
        digests = {
            split: hashlib.sha256(np.ascontiguousarray(part.logits).tobytes()).hexdigest()
            for split, part in cache.splits.items()
        }
        assert digests == expected["logits_sha256"]

    def test_its_images_are_these(self, here: Path) -> None:
        images = load_images_of(open_cache(here / "teacher.h5"), here)
        assert len(images.splits["train"]) == 80

    def test_its_probe_is_read_not_fitted_again(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "kdcache.distill.probe_file.fit_probe", lambda *_, **__: pytest.fail("fitted")
        )
        cache, expected = open_cache(here / "teacher.h5"), EXPECTED["probe"]
        probe = load_or_fit_probe(cache)
        assert probe.temperature == expected["temperature"]
        assert probe.penalty == expected["penalty"] and probe.validation == expected["validation"]
        soft = probe.project_training(torch.from_numpy(cache.splits["train"].logits))
        rows = torch.tensor(expected["project_training_first_rows"])
        torch.testing.assert_close(soft[: len(rows), 0], rows)

    def test_info_and_verify(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        facts, expected = summarize_cache(here / "teacher.h5").facts, EXPECTED["cache"]["info"]
        for key in expected.keys() - {"opening", "soft_target_entropy"}:
            assert facts[key] == expected[key], key
        for temperature, quantiles in expected["soft_target_entropy"].items():
            assert facts["soft_target_entropy"][temperature] == pytest.approx(quantiles)
        assert run(main, "verify", here / "teacher.h5", "--live", 20) == 0
        assert "every byte is the one that was written" in capsys.readouterr().out


class TestFinishedRuns:
    @pytest.mark.parametrize("name", ["finished", "labels"])
    def test_the_student_predicts_as_it_did(self, name: str, here: Path) -> None:
        expected, opened = EXPECTED["runs"][name], open_run(here / name)
        assert state_digest(opened.module) == expected["student_digest"]
        images = load_images_of(open_cache(here / "teacher.h5"), here).splits["test"].images[:50]
        with torch.no_grad():
            predictions = opened.module(opened.render(images)).argmax(1).tolist()
        assert predictions == expected["predictions"]
        recorded = read_run(here / name).predictions
        assert recorded is not None, "answers.pt is what 0.1.0 called it"
        assert recorded.student.argmax(1)[:50].tolist() == predictions

    @pytest.mark.parametrize("name", ["finished", "labels"])
    def test_summary_and_history(self, name: str, here: Path) -> None:
        expected, found = EXPECTED["runs"][name], read_run(here / name)
        summary = found.summary.to_json()
        assert {key: summary[key] for key in expected["summary"]} == expected["summary"]
        last = found.history[-1].to_json()
        assert {key: last[key] for key in expected["last_epoch"]} == expected["last_epoch"]

    def test_they_are_compared(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        finished, unfinished = find_runs([here])
        assert {found.folder.name for found in finished} == {"finished", "labels"}
        assert {path.name for path in unfinished} == {"begun", "interrupted", "interrupted-labels"}
        page = here / "page.html"
        assert run(main, "compare", here, "--html", page, "--json", here / "c.json") == 0
        assert "11.00" in capsys.readouterr().out and page.stat().st_size > 10_000

    def test_one_is_exported(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(main, "export", here / "finished", "--format", "pt2") == 0
        assert "checked on" in capsys.readouterr().out


class TestInterruptedRuns:
    @pytest.mark.skipif(
        not SAME_TORCH, reason="a run goes on only with the torch it was begun with"
    )
    @pytest.mark.parametrize("name", ["interrupted", "interrupted-labels", "begun"])
    def test_one_goes_on_to_where_it_would_have_ended(self, name: str, here: Path) -> None:
        before, expected = read_history(here / name), EXPECTED["resumed"][name]
        assert run(train_student.main, "--resume", here / name) == 0
        history = read_history(here / name)
        assert len(history) == expected["last_epoch"]["epoch"]
        for one, other in zip(before, history, strict=False):
            assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)
        # another processor may round otherwise
        found = history[-1].to_json()
        for key in ("train_loss", "label_loss", "distillation_loss", "validation_loss"):
            assert found[key] == pytest.approx(expected["last_epoch"][key], rel=1e-3), key

    def test_another_torch_is_refused(
        self, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "__version__", "1.0")
        message = refused(train_student.main, capsys, "--resume", here / "interrupted")
        assert "software: torch 2.15.0" in message and "and torch 1.0, torchvision" in message

    def test_its_options_are_read(self, here: Path) -> None:
        config = read_config(here / "interrupted")
        assert config is not None
        options = config.options
        assert (options.mix, options.optimizer, options.alpha) == ("cutmix", "adamw", 0.9)
        assert options.cache == Path("v0.1/teacher.h5")
