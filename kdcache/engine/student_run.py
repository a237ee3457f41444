"""One run of phase two: resolve the options, build the student, train it, record what came out."""

import contextlib
import time

from torch import Tensor

from kdcache.config import TrainOptions
from kdcache.distill import agreement
from kdcache.engine.batches import check_processes
from kdcache.engine.optimization import check_validation_loss, learning_rate
from kdcache.engine.resolve import (
    finished_run,
    learned_rows,
    recorded_options,
    resolve_config,
)
from kdcache.engine.student import Evaluation, build_student
from kdcache.engine.trainer import Trainer, TrainingCallbacks
from kdcache.engine.training_data import (
    TrainingData,
    describe_images,
    describe_teaching,
    load_training_data,
    teacher_scores,
)
from kdcache.models import StudentCard, student_state_dict
from kdcache.runs import (
    EpochRecord,
    RunRecorder,
    RunSummary,
    TeacherScores,
    best_labels_only,
    extended_options,
    make_run_config,
    only_writer,
)
from kdcache.runtime import SINGLE_PROCESS, Processes, pick_device


def train_student(
    options: TrainOptions,
    data: TrainingData | None = None,
    callbacks: TrainingCallbacks | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> RunSummary:
    """Train one student and test it, once, leaving everything in `options.out`.

    A run that was interrupted there is resumed; one that is finished is left as it is.

    Args:
        data: what several students share; loaded as the options say if it is not given.
        callbacks: what is told while it trains.
        processes: train this student together; the main one writes.

    Raises OptionError, among others where `options.out` holds a run of other options; DataError,
    CacheDamagedError or DivergedError.
    """
    data = data or load_training_data(options)
    callbacks = callbacks or TrainingCallbacks()
    if options.extend:
        options = extended_options(options)
    summary = finished_run(options, data.images, data.cache, processes)
    if summary is not None:
        callbacks.on_message(f"{options.out} is finished: {summary.result}; nothing was trained")
        return summary
    run = StudentRun(options, data, callbacks, processes)
    with contextlib.ExitStack() as stack:
        lock = only_writer(options.out)
        processes.broadcast_object(lambda: stack.enter_context(lock))
        run.train()
        return run.finish()


class StudentRun:
    """One student's training and test, and what they leave in `options.out`.

    Attributes:
        config: what the training depends on, resolved.
        options: as given, with the resolved values in place of the defaults.
        images: with the part of the training split that is learned from.
        targets: what the cached teacher says of them; None for a run without a cache.
        view_table: int16 `(N, V, 5)`, the cached views of the training split; None likewise.
        history: a record an epoch.
        test: the predictions on the test split, once the run is finished.
    """

    def __init__(
        self,
        options: TrainOptions,
        data: TrainingData,
        callbacks: TrainingCallbacks | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self._callbacks, self._processes = callbacks or TrainingCallbacks(), processes
        self.device = pick_device(options.device, processes.local_rank)
        self.config = resolve_config(options, data.images, data.cache, self.device)
        self.options = recorded_options(options, self.config)
        self.cache = data.cache
        rows = learned_rows(options, data.images)
        self.images = data.images.with_train(rows)
        check_processes(self.config, len(rows), processes)
        self.targets, self.view_table = data.part(self.config, rows)
        self._what_is_learned = describe_images(data.images, self.images)

        online = None
        if options.live_teacher and options.distills:
            online = data.online_teacher(self.config.projection, options, rows, self.device)
        self.trainer = Trainer(
            self.config,
            build_student(self.config),
            self.images,
            self.targets,
            self.view_table,
            self.device,
            online,
            processes,
        )

        self.history: list[EpochRecord] = []
        self.test: Evaluation | None = None
        self._recorder = RunRecorder(options.out, options.tensorboard and processes.is_main)
        self._seconds = 0.0
        self._overwrite = options.overwrite
        self._run_config = make_run_config(
            options, self.options, self.images, data.cache, self.device
        )

    def train(self) -> None:
        """All epochs that are still to come, each followed by validation and a checkpoint.

        The folder is written from here on; the caller sees to it that nobody else does.
        """
        begin, config = self._recorder.begin, self._run_config
        before = self._processes.broadcast_object(
            lambda: begin(config, self._overwrite, self.device)
        )
        self._restore()
        self._callbacks.on_message(self._plan(before))
        epochs = self.config.epochs
        try:
            for epoch in range(len(self.history), epochs):
                if epoch > 0 and self._callbacks.should_stop(self.history):
                    break
                self._train_epoch(epoch)
        except KeyboardInterrupt:
            without = " without --overwrite" if self._overwrite else ""
            saved = f"{len(self.history)} of {epochs} epochs are saved"
            raise KeyboardInterrupt(f"{saved}; the same command{without} goes on") from None

    def finish(self) -> RunSummary:
        """Test the best epoch's student, once, and record what came out."""
        self._processes.barrier()  # until the main process has written the best epoch
        model, epoch, validation_accuracy = self._recorder.read_best(self.device)
        self.trainer.student.module.load_state_dict(model)
        evaluate, splits = self.trainer.student.evaluate, self.images.splits
        self.test, validation = evaluate(splits["test"]), evaluate(splits["validation"])
        summary = self._summary(epoch, validation_accuracy, validation)
        if self._processes.is_main:
            self._callbacks.on_tested(self)
            self._recorder.finish(
                summary,
                self._card(),
                student_state_dict(self.trainer.student.module, self.config.classes),
                self.images.splits["test"].labels,
                self.test.logits,
                self.targets.predictions["test"] if self.targets else None,
            )
            self._callbacks.on_finished(self)
        return summary

    def _train_epoch(self, epoch: int) -> None:
        steps_before = epoch * self.trainer.steps_per_epoch
        steps = self.config.epochs * self.trainer.steps_per_epoch
        started = time.perf_counter()

        def after_step(step: int, rows: Tensor, view_index: Tensor, inputs: Tensor) -> None:
            self._callbacks.on_step(steps_before + step + 1, steps)
            self._callbacks.on_batch(self, steps_before + step, rows, view_index, inputs)

        means = self.trainer.train_epoch(epoch, after_step)
        seconds = time.perf_counter() - started
        validation = self.trainer.student.evaluate(self.images.splits["validation"])
        check_validation_loss(validation.loss, epoch + 1)
        teacher = self.targets.predictions if self.targets else None
        record = EpochRecord(
            epoch=epoch + 1,
            **means,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            agreement=agreement(teacher["validation"], validation.logits) if teacher else None,
            seconds=seconds,
            images_per_second=len(self.images.splits["train"]) / seconds,
        )
        self._seconds += time.perf_counter() - started
        self._keep(record)
        self._callbacks.on_epoch(self, record)

    def _keep(self, record: EpochRecord) -> None:
        """Add an epoch to the history and save the checkpoints."""
        best_before = max((entry.validation_accuracy for entry in self.history), default=-1.0)
        self.history.append(record)
        if not self._processes.is_main:
            return
        state = self.trainer.state_dict()
        if record.validation_accuracy > best_before:
            self._recorder.keep_best(state["model"], record)
        self._recorder.keep_last(state, self.history, self._seconds, self._run_config)

    def _restore(self) -> None:
        """Go on after the last finished epoch of an interrupted run, if there is one."""
        recorder = self._recorder
        last = recorder.resume(self._run_config, self.device, self.trainer.load_state_dict)
        if last is not None:
            self._processes.broadcast_object(lambda: recorder.secure_best(last, self.device))
            self.history, self._seconds = list(last.history), last.seconds

    def _card(self) -> StudentCard:
        return StudentCard(
            self.config.preprocessing,
            self.config.student,
            self.config.small_stem,
            self.images.image_shape,  # before they become the student's input
            self.cache.fingerprint if self.cache else None,
            self.cache.content_digest if self.cache else None,
        )

    def _summary(
        self, best_epoch: int, validation_accuracy: float, validation: Evaluation
    ) -> RunSummary:
        config, splits = self.config, self.images.splits
        distils = self.targets is not None and config.alpha > 0
        return RunSummary(
            name=str(self.options.out),
            student=config.student,
            alpha=config.alpha,
            validation_accuracy=validation_accuracy,
            test_accuracy=self.test.accuracy if self.test else None,
            test_images=len(splits["test"]),
            parameters=sum(value.numel() for value in self.trainer.student.module.parameters()),
            dataset=self.images.name,
            labels=self.options.labels,
            unlabelled=splits["train"].unlabelled or None,
            loss=config.loss if distils else None,
            temperature=config.temperature,
            projection=config.projection if distils else None,
            views=config.matching if distils else None,
            seed=config.seed,
            epochs=len(self.history),
            best_epoch=best_epoch,
            seconds=self._seconds,
            validation_digest=splits["validation"].digest(),
            test_digest=splits["test"].digest(),
            validation_class_accuracy=validation.class_accuracy,
            test_class_accuracy=self.test.class_accuracy if self.test else None,
            fingerprint=self.cache.fingerprint if self.cache else None,
            teacher=self._teacher_scores(),
        )

    def _teacher_scores(self) -> TeacherScores | None:
        return teacher_scores(self.cache, self.targets, self.images, self.options.labels)

    def _plan(self, before: int | None) -> str:
        """What is about to happen, in words.

        Args:
            before: how many epochs the run had, if it is extended.
        """
        splits, teacher = self.images.splits, self._teacher_scores()
        lines = [
            f"{self.config.student} on {self._what_is_learned}, {self.config.classes} classes,"
            f" {self.config.epochs} epochs on {self.device}"
        ]
        if teacher is not None:
            baseline = None
            if self.config.alpha > 0:
                baseline = best_labels_only(self.options.out, splits["validation"].digest())
            lines += describe_teaching(self.config, teacher, baseline)
        done, epochs = len(self.history), self.config.epochs
        if before is not None:
            steps = self.trainer.steps_per_epoch
            lr = learning_rate(self.config, done * steps, epochs * steps)
            lines.append(
                f"extended from {before} to {epochs} epochs: the learning rate had fallen towards 0"
                f" and goes on at {lr:.2g}, as in a run of {epochs} epochs; the result is not that"
                f" of {epochs} epochs in one go"
            )
        elif done:
            lines.append(f"resumed after epoch {done} of {epochs}")
        return "\n".join(lines)
