"""docs/commands.md, "Adding to it": a loss, a dataset and a projection, added to a copy of the package as described there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

LOSS = """

def l1(student_logits, teacher_logits, labels, temperature):
    return (student_logits - teacher_logits).abs().mean()


DISTILLATION_LOSSES["l1"] = l1
"""
DATASET = """

def _read_stripes(name, folder, limit, store_size, stream):
    labels = np.arange(40) % 2
    pixels = np.zeros((40, 3, 16, 16), np.uint8)
    pixels[labels == 0, :, ::2] = 200
    pixels[labels == 1, :, :, ::2] = 200
    return _in_memory(("across", "down"), (pixels, labels), (pixels, labels))


_READERS["stripes"] = _read_stripes
"""
PROJECTION = """

def _first_classes(cache, logits, class_names):
    first = {split: rows[..., : len(class_names)].float() for split, rows in logits.items()}
    return TeacherTargets("first", {"student": first["train"]}, {split: first[split][:, 0] for split in ("validation", "test")})


PROJECTED_BY["first"] = _first_classes
"""
COMMANDS = """
import precompute_teacher, train_student
teacher = ["--teacher", "tiny_models:tiny_teacher", "--image-size", "16", "--cache", "t.h5"]
precompute_teacher.main(["--dataset", "stripes", *teacher])
student = ["--student", "tiny_models:tiny_cnn", "--epochs", "3", "--batch-size", "8"]
train_student.main(["--cache", "t.h5", *student, "--projection", "first", "--loss", "l1", "--alpha", "0.1", "--out", "run"])
"""


def test_a_loss_a_dataset_and_a_projection(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "kdcache", tmp_path / "kdcache")
    for script in ("precompute_teacher.py", "train_student.py"):
        shutil.copy(ROOT / script, tmp_path)
    for module, text in (("losses", LOSS), ("images", DATASET), ("targets", PROJECTION)):
        with open(tmp_path / "kdcache" / f"{module}.py", "a") as file:
            file.write(text)
    config = tmp_path / "kdcache" / "config.py"
    changed = config.read_text()
    for names, name in (("LOSSES", "l1"), ("DATASETS", "stripes"), ("PROJECTIONS", "first")):
        assert f"\n{names} = (" in changed
        changed = changed.replace(f"\n{names} = (", f'\n{names} = ("{name}", ')
    config.write_text(changed)

    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT / "tests")))}
    command = [sys.executable, "-c", COMMANDS]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["dataset"], summary["projection"], summary["loss"]) == (
        "stripes",
        "first",
        "l1",
    )
    assert summary["test_accuracy"] == 1.0, "stripes are easy"
