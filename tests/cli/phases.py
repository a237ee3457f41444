"""Command lines of both phases on something tiny, shared by the tests of this folder."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
VIEWS = ["--views", "3", "--augment", "crop-flip"]
TINY_TEACHER = ["--teacher", "tiny_models:tiny_teacher", "--image-size", "16"]
TINY_STUDENT = ["--student", "tiny_models:tiny_cnn", "--image-size", "16"]
TINY_STUDENT += ["--epochs", "2", "--batch-size", "32"]
