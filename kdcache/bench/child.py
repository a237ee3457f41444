"""What takes a fresh process: `python -m kdcache.bench.child FUNCTION JSON-ARGUMENTS`."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from kdcache.bench.setup import fill_cache, make_trainer, noise_images
from kdcache.cache import open_cache
from kdcache.distill import check_images_match
from kdcache.engine import TrainingData, prepare_teacher
from kdcache.models import build_model
from kdcache.runtime import keep_freed_memory, peak_memory, pick_device, synchronizer

_TINY = "kdcache.models.small_resnets:half_resnet8"


def in_child(function: str, *arguments: object) -> dict[str, float]:
    """What a function of this module returns in a fresh process, and `spawned`, its time.time().

    It runs where this package lies, so that it imports the same one. Raises RuntimeError with the
    last line that it wrote where it failed.
    """
    words = ["-m", "kdcache.bench.child", function, json.dumps(arguments, default=str)]
    root, spawned = Path(__file__).parents[2], time.time()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=root)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"a child process failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"spawned": spawned}


def fill_cheap_cache(cache_path: str, rows: int, device_name: str) -> dict[str, float]:
    """Phase one with a tiny teacher of 1000 classes -> seconds, bytes of the process's peak."""
    model = build_model(_TINY, "none", seed=0, classes=1000, image_size=8)
    teacher = prepare_teacher(model, pick_device(device_name), "fp32")
    seconds = fill_cache(Path(cache_path), teacher, noise_images(rows))
    return {"seconds": seconds, "peak": peak_memory()}


class _FirstStep(Exception):
    """Ends a training that has shown what it should."""


def first_steps(cache_path: str, device_name: str) -> dict[str, float]:
    """Two students of one cache, one after the other, each until its first optimizer step.

    Returns the time.time() after the imports and both steps, and the seconds of drawing the images.
    """
    moments = {"imported": time.time()}
    cache = open_cache(Path(cache_path))
    began = time.time()
    images = noise_images(len(cache.splits["train"]))
    moments["drawing"] = time.time() - began
    check_images_match(cache, images)
    data = TrainingData(images, cache)

    def stop(*step: object) -> None:
        raise _FirstStep

    for name in ("first", "second"):
        with contextlib.suppress(_FirstStep):
            options = {"student": _TINY, "image_size": 32, "device": device_name}
            make_trainer(Path(cache_path), data, **options).train_epoch(0, stop)
        synchronizer(pick_device(device_name))()
        moments[name] = time.time()
    return moments


if __name__ == "__main__":
    keep_freed_memory()  # as the command lines of both phases do
    measured = {"first_steps": first_steps, "fill_cheap_cache": fill_cheap_cache}[sys.argv[1]]
    sys.stdout.write(json.dumps(measured(*json.loads(sys.argv[2]))))
