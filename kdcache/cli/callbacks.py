"""What a command line shows while students are trained: bars, lines, pictures.

This module imports the engine; the commands load it once their options are known to be good.
"""

from torch import Tensor

from kdcache import report  # what it offers is imported when it is used: matplotlib at the end
from kdcache.cli.console import Progress
from kdcache.engine import StudentRun, TrainingCallbacks
from kdcache.runs import EpochRecord
from kdcache.runtime import keep_freed_memory
from kdcache.search import SweepCallbacks


class ShowTraining(TrainingCallbacks):
    """One student: a bar over its steps, a line an epoch, and its pictures at the end.

    Args:
        progress: the bar; its unit is a step.
        vis: also show the first image of each batch.

    Attributes:
        trained: whether a run came to its end; none does where it was finished before.
    """

    def __init__(self, progress: Progress, *, vis: bool = False) -> None:
        self._progress, self._vis = progress, vis
        self._first = True
        self.trained = False

    def on_message(self, text: str) -> None:
        self._progress.say(text)

    def on_step(self, done: int, total: int) -> None:
        self._progress(done, total)

    def on_batch(
        self, run: StudentRun, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
    ) -> None:
        if self._first and run.device.type == "cpu":
            keep_freed_memory()  # now that a step has shown how much it needs
        self._first = False
        if self._vis:
            report.show_batch(run, step, image_index, view_index, inputs)

    def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
        self._progress.say(epoch_line(record, run.config.epochs))
        self._progress.show(epoch_in_short(record))

    def on_tested(self, run: StudentRun) -> None:
        report.draw_pictures(run)

    def on_finished(self, run: StudentRun) -> None:
        self.trained = True


class ShowSweep(SweepCallbacks):
    """Many students: a bar over them, one over the steps of the student at hand, a line a student.

    Args:
        students: the bar over the students.
        steps: the bar over the steps.
    """

    def __init__(self, students: Progress, steps: Progress) -> None:
        self._students, self._steps = students, steps
        self._one = ShowTraining(steps)

    def on_student(self, finished: int, total: int) -> None:
        self._students(finished, total)

    def on_message(self, text: str) -> None:
        self._students.say(text)

    def on_step(self, done: int, total: int) -> None:
        self._steps(done, total)

    def on_batch(
        self, run: StudentRun, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
    ) -> None:
        self._one.on_batch(run, step, image_index, view_index, inputs)

    def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
        self._steps.show(epoch_in_short(record))

    def on_tested(self, run: StudentRun) -> None:
        self._one.on_tested(run)


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """A line on an epoch: losses, accuracies and speed."""
    agreement = ""
    if record.agreement is not None:
        agreement = f", agreement {record.agreement:.1%}"
    return (
        f"epoch {record.epoch:>3}/{epochs}  train loss {record.train_loss:.3f}"
        f"  validation loss {record.validation_loss:.3f},"
        f" accuracy {record.validation_accuracy:.1%}{agreement}"
        f"  {speed(record.images_per_second)} images/s"
    )


def epoch_in_short(record: EpochRecord) -> str:
    """The same, short enough to stand behind a bar."""
    return (
        f"loss {record.train_loss:.3f}, validation {record.validation_accuracy:.1%},"
        f" {speed(record.images_per_second)} images/s"
    )


def speed(images: float | None) -> str:
    """Images a second: 12,345, but 1.70."""
    if images is None:
        return "-"
    return f"{images:,.0f}" if images >= 10 else f"{images:.2f}"
