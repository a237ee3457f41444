"""Faults planted by hand: what no operator of a mutation tool makes, and which test notices each.

`python -m mutants.faults` (in tests/) plants them one by one in a copy of the repository and runs
the test beside each, which must fail. It writes the table of docs/mutants.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mutants.report import write_faults

ROOT = Path(__file__).parents[2]
_OPTIONS = ["-o", "addopts=", "-q", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider"]


@dataclass(frozen=True)
class Fault:
    """In `path`, `old` becomes `new`; `test` is what must notice."""

    what: str
    path: str
    old: str
    new: str
    test: str


FAULTS = (
    Fault(
        "a run's files are written in place, not renamed",
        "kdcache/runtime/files.py",
        'temporary = path.with_name(f"{path.name}.tmp")',
        "temporary = path",
        "tests/runtime/test_files.py",
    ),
    Fault(
        "a run's files are not forced to the disk",
        "kdcache/runtime/files.py",
        "            os.fsync(file.fileno())\n",
        "",
        "tests/runtime/test_files.py",
    ),
    Fault(
        "or only once they have their name: a loss of power may leave them empty",
        "kdcache/runtime/files.py",
        "            os.fsync(file.fileno())\n            os.replace(temporary, path)\n",
        "            os.replace(temporary, path)\n            os.fsync(file.fileno())\n",
        "tests/runtime/test_files.py",
    ),
    Fault(
        "the probe's penalty is chosen on the training split",
        "kdcache/distill/probe.py",
        "losses = [F.cross_entropy(unseen(weight), validation_labels).item()"
        " for weight in candidates]",
        "losses = [F.cross_entropy(standardise(view_0[:, 0], mean, scale) @ weight.T,"
        " train_labels).item() for weight in candidates]",
        "tests/distill/test_probe.py",
    ),
    Fault(
        "the probe's temperature is chosen on the training split",
        "kdcache/distill/probe.py",
        "temperature = calibrate(raw, validation_labels)",
        "temperature = calibrate(standardise(view_0[:, 0], mean, scale) @ weight[-1].T,"
        " train_labels)",
        "tests/distill/test_probe.py",
    ),
    Fault(
        "the digest of the images in the manifest is always the same",
        "kdcache/engine/precomputation.py",
        '"digest": part.digest()}',
        '"digest": "0" * 64}',
        "tests/engine/test_precomputation.py",
    ),
    Fault(
        "the precision is left out of the comparison of manifests",
        "kdcache/cache/manifest.py",
        "elif one != other:",
        'elif one != other and key != "precision":',
        "tests/cache/test_manifest.py",
    ),
    Fault(
        "the image size is left out of the comparison of manifests",
        "kdcache/cache/manifest.py",
        "elif one != other:",
        'elif one != other and key != "image_size":',
        "tests/cache/test_manifest.py",
    ),
    Fault(
        "last.pt, best.pt and predictions.pt are read with pickle",
        "kdcache/runtime/tensor_files.py",
        "weights_only=True",
        "weights_only=False",
        "tests/runtime/test_files.py",
    ),
    Fault(
        "best.pt is read by torch itself",
        "kdcache/runs/recorder.py",
        "best = load_tensors(path, device)",
        "best = torch.load(path, weights_only=False)",
        "tests/test_architecture.py",
    ),
    Fault(
        "last.pt is read by torch itself",
        "kdcache/runs/recorder.py",
        "state = load_tensors(path, device)",
        "state = torch.load(path, weights_only=False)",
        "tests/test_architecture.py",
    ),
    Fault(
        "predictions.pt is read by torch itself",
        "kdcache/runs/predictions.py",
        'load_tensors(path, torch.device("cpu"), expected=expected, remedy=remedy)',
        "torch.load(path, weights_only=False)",
        "tests/test_architecture.py",
    ),
    Fault(
        "an extent may lie beyond the end of the file",
        "kdcache/cache/hdf5.py",
        "if extent.end > layout.file_size or extent",
        "if extent",
        "tests/cache/test_hdf5.py",
    ),
    Fault(
        "a journal that lost its name before it was locked is taken for the lock",
        "kdcache/runtime/file_locks.py",
        "            if _is_named(fd, path):\n                return fd\n",
        "            return fd\n",
        "tests/cache/test_journal.py",
    ),
    Fault(
        "a run is resumed with another cache",
        "kdcache/runs/records.py",
        'inputs = ("fingerprint", "images")',
        'inputs = ("images",)',
        "tests/engine/test_resume.py",
    ),
    Fault(
        "a run is resumed with a cache of the same manifest and other logits",
        "kdcache/runs/records.py",
        "if not found and not self.same_content(other.content_digest):",
        "if False:",
        "tests/engine/test_resume.py",
    ),
    Fault(
        "a run without a cache is resumed with other images",
        "kdcache/runs/records.py",
        'inputs = ("fingerprint", "images")',
        'inputs = ("fingerprint",)',
        "tests/engine/test_resume.py",
    ),
    Fault(
        "a run is resumed with other software",
        "kdcache/runs/records.py",
        '"software", "device_type") if to_train',
        '"device_type") if to_train',
        "tests/engine/test_rerun.py tests/engine/test_resume.py",
    ),
    Fault(
        "a resumed run begins with an optimizer of its own",
        "kdcache/engine/trainer.py",
        '            load_optimizer(self._optimizer, state["optimizer"])\n',
        "",
        "tests/engine/test_resume.py",
    ),
    Fault(
        "a resumed run begins with random generators of its own",
        "kdcache/engine/trainer.py",
        "        self._generators = generators\n",
        "",
        "tests/engine",
    ),
    Fault(
        "a resumed run begins with a gradient scaler of its own",
        "kdcache/engine/trainer.py",
        '            self._scaler.load_state_dict(dict(state["scaler"]))\n',
        "",
        "tests/engine",
    ),
    Fault(
        "last.pt is written before metrics.jsonl",
        "kdcache/runs/recorder.py",
        """        write_text(self.folder / HISTORY_FILE, lines)
        run = {"history": records, "seconds": seconds, "config": config.to_json()}
        save_tensors(self.folder / LAST_CHECKPOINT, trainer | run)
""",
        """        run = {"history": records, "seconds": seconds, "config": config.to_json()}
        save_tensors(self.folder / LAST_CHECKPOINT, trainer | run)
        write_text(self.folder / HISTORY_FILE, lines)
""",
        "tests/engine/test_rerun.py tests/engine/test_resume.py",
    ),
    Fault(
        "last.pt is written before best.pt",
        "kdcache/engine/student_run.py",
        """        if record.validation_accuracy > best_before:
            self._recorder.keep_best(state["model"], record)
        self._recorder.keep_last(state, self.history, self._seconds, self._run_config)
""",
        """        self._recorder.keep_last(state, self.history, self._seconds, self._run_config)
        if record.validation_accuracy > best_before:
            self._recorder.keep_best(state["model"], record)
""",
        "tests/engine/test_rerun.py tests/engine/test_resume.py",
    ),
    Fault(
        "the last epoch is tested, and not the best",
        "kdcache/engine/student_run.py",
        "        if record.validation_accuracy > best_before:\n    ",
        "",
        "tests/engine/test_best_epoch.py",
    ),
    Fault(
        "the best epoch is chosen on the test split",
        "kdcache/engine/student_run.py",
        'validation = self.trainer.student.evaluate(self.images.splits["validation"])',
        'validation = self.trainer.student.evaluate(self.images.splits["test"])',
        "tests/engine/test_best_epoch.py",
    ),
    Fault(
        "--untrusted has no limit on memory",
        "kdcache/cli/commands/verify.py",
        "        resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))\n",
        "",
        "tests/cli/test_verify.py",
    ),
    Fault(
        "--untrusted leaves a core file",
        "kdcache/cli/commands/verify.py",
        "        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n",
        "",
        "tests/cli/test_verify.py",
    ),
    Fault(
        "--untrusted may write files",
        "kdcache/cli/commands/verify.py",
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write\n",
        "",
        "tests/cli/test_verify.py",
    ),
    Fault(
        "--untrusted has another limit on time",
        "kdcache/cli/commands/verify.py",
        "            timeout=_CHILD_SECONDS,\n",
        "            timeout=_CHILD_SECONDS + 60,\n",
        "tests/cli/test_verify.py",
    ),
    Fault(
        "a file may make HDF5 load a plug-in",
        "kdcache/cache/hdf5.py",
        'os.environ["HDF5_PLUGIN_PRELOAD"] = "::"\n',
        "",
        "tests/test_architecture.py",
    ),
    Fault(
        "two sweeps train the same student at once",
        "kdcache/search/sweep.py",
        "            if not mine:\n",
        "            if False:\n",
        "tests/search/test_sweep.py -k another_process",
    ),
    Fault(
        "names are not escaped in the page",
        "kdcache/report/page/page.py",
        "autoescape=True",
        "autoescape=False",
        "tests/report/test_page.py",
    ),
    Fault(
        "names are not escaped in what Plotly is given",
        "kdcache/report/page/charts.py",
        'return html.escape(" ".join(str(text).split()), quote=False)',
        'return " ".join(str(text).split())',
        "tests/report/test_page.py",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only the faults that these words describe")
    arguments = parser.parse_args()
    rows, missed = [], 0
    with tempfile.TemporaryDirectory(prefix="kdcache-faults-") as scratch:
        tree = Path(scratch)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT).decode().split("\0"):
            if name and (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        for fault in FAULTS:
            if arguments.words and not any(word in fault.what for word in arguments.words):
                continue
            found = noticed_by(fault, tree)
            missed += not found
            rows.append((fault.what, found or "**no test**"))
            print(f"{fault.what}: {found or 'NOT NOTICED'}", flush=True)
    if not arguments.words:
        write_faults(rows)
    return 1 if missed else 0


def noticed_by(fault: Fault, tree: Path) -> str:
    """The name of the first test that fails with a fault; empty where none does."""
    path = tree / fault.path
    source = path.read_text()
    if source.count(fault.old) != 1:
        raise SystemExit(f"{fault.what}: {fault.path} has no such lines, or several")
    path.write_text(source.replace(fault.old, fault.new))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *_OPTIONS, *fault.test.split()],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": f"{tree}:{tree / 'tests'}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=900,
        )
    finally:
        path.write_text(source)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            name = line.split(" - ")[0].split(" ", 1)[1].partition("[")[0]
            if "::" not in name:
                raise SystemExit(f"{fault.what}: {name} cannot even be imported")
            return name
    return ""


if __name__ == "__main__":
    sys.exit(main())
