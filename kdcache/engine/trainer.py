"""Trains one student from labels and soft targets.

Its epochs and steps, and all the state that a resumed run needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from kdcache.config import LOSSES
from kdcache.data import ImageData, Mix, draw_mix
from kdcache.distill import DistillationLoss, Head, TeacherTargets, label_loss
from kdcache.engine.batches import Batch, Batches
from kdcache.engine.optimization import (
    DivergenceMonitor,
    distillation_weight,
    freeze_body,
    learning_rate,
    load_optimizer,
    make_optimizer,
    set_learning_rate,
)
from kdcache.engine.resolve import TrainConfig
from kdcache.engine.student import Student
from kdcache.models import Model, class_logits
from kdcache.runs import EpochRecord
from kdcache.runtime import SINGLE_PROCESS, CoreWatch, Processes, autocast, compiled, to_device

if TYPE_CHECKING:
    from kdcache.engine.student_run import StudentRun

OnlineLogits = Callable[[Tensor, Tensor, Tensor, Mix | None], dict[Head, Tensor]]
"""(images, rows, views, mix) of a step -> what each head is taught with."""

AfterStep = Callable[[int, Tensor, Tensor, Tensor], None]
"""Called with (step of this epoch, image_index, view_index, inputs) of the batch just learned
from.
"""

_POLL_EVERY = 50  # steps between two looks at the largest loss


class TrainingCallbacks:
    """Override what you need; command lines print, draw and stop early through it."""

    def on_message(self, text: str) -> None:
        """One or more lines about what is going on."""

    def on_step(self, done: int, total: int) -> None:
        """After each step, counted over all epochs."""

    def on_batch(
        self, run: StudentRun, step: int, image_index: Tensor, view_index: Tensor, inputs: Tensor
    ) -> None:
        """After each step, with its indices int64 `(B,)` and inputs float32 `(B, 3, S, S)`."""

    def on_epoch(self, run: StudentRun, record: EpochRecord) -> None:
        """After each epoch, once its checkpoint is on the disk."""

    def on_tested(self, run: StudentRun) -> None:
        """After the test, before the run counts as finished: the place to leave more of it."""

    def on_finished(self, run: StudentRun) -> None:
        """After the test, once everything is on the disk."""

    def should_stop(self, history: Sequence[EpochRecord]) -> bool:
        """Asked after each epoch but the last: whether training is to end here."""
        return False


class Trainer:
    """One student's training.

    Args:
        config: resolved.
        model: from `build_student`.
        images: whose training split is learned from.
        targets: what the cached teacher says of it; None where there is no cache.
        view_table: int16 `(N, V, 5)`, the cached views of the training split; None where there is
            no cache.
        online: the teacher in the loop; None reads the targets.
        processes: share each batch and its gradient; all of them must make the same calls.

    Raises OptionError where the model cannot be trained on its input size or on so few images.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Model,
        images: ImageData,
        targets: TeacherTargets | None,
        view_table: np.ndarray | None,
        device: torch.device,
        online: OnlineLogits | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.config, self.device = config, device
        self._online, self._processes = online, processes
        reads_targets = targets is not None and online is None and config.alpha > 0
        teacher_logits = targets.train if targets is not None and reads_targets else {}
        self._batches = Batches(config, images, teacher_logits, view_table, device, processes)
        self.student = Student(config, model, images.image_shape, device, processes)
        module = self.student.module
        if config.layer_decay == 0:
            freeze_body(module)
        self.student.check_training(self._batches.smallest)
        together = DistributedDataParallel(module) if processes.world_size > 1 else module
        self._forward = compiled(together, config.compile)
        self._distillation_loss: DistillationLoss = LOSSES.load(config.loss)
        train = images.splits["train"]
        # what an epoch's sums are means of: all images, or only the labelled ones
        self._counts = torch.tensor([len(train), train.labelled] * 2)
        self.steps_per_epoch = self._batches.steps
        self._optimizer = make_optimizer(module, config, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._divergence, self._cores = DivergenceMonitor(device), CoreWatch(device)
        self._generators = self._seeded_generators(config.seed + processes.rank)

    def train_epoch(self, epoch: int, after_step: AfterStep) -> dict[str, float]:
        """Show every training image once, in the view drawn for this epoch (0, 1, ...).

        Returns the means over the images: train_loss, distillation_loss (nats); over those that
        have a label: label_loss (nats), train_accuracy; and the last lr.

        Raises DivergedError where the loss explodes.
        """
        # a body that is not trained is the one that was given, norms' statistics and all
        self.student.module.train(self.config.layer_decay > 0)
        first, total = epoch * self.steps_per_epoch, self.config.epochs * self.steps_per_epoch
        sums = torch.zeros(4, device=self.device, dtype=torch.float64)
        lr, distill_weight = self.config.lr, distillation_weight(self.config, epoch)
        with self._own_generators():
            for step, batch in enumerate(self._batches.of(epoch)):
                lr = learning_rate(self.config, first + step, total)
                set_learning_rate(self._optimizer, lr)
                mix = self._draw_mix(len(batch.rows), epoch, step)
                inputs = self.student.render(batch.images, batch.views)
                inputs = inputs if mix is None else mix.images(inputs)
                sums += self._step(inputs, batch, mix, distill_weight) * len(batch.rows)
                after_step(step, batch.rows, batch.view_index, inputs)
                self._cores.poll()
                if step % _POLL_EVERY == _POLL_EVERY - 1:
                    self._divergence.poll(self._when(epoch, step, lr))
        self._divergence.poll(self._when(epoch, self.steps_per_epoch - 1, lr))
        means = self._processes.all_reduce(sums) / self._counts.to(self.device)
        self._divergence.flush()
        loss, label_term, distillation_term, accuracy = means.tolist()
        return {
            "lr": lr,
            "train_loss": loss,
            "label_loss": label_term,
            "distillation_loss": distillation_term,
            "train_accuracy": accuracy,
        }

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer, scaler and generators.

        With the epoch's number, all that decides what comes next.
        """
        return {
            "model": self.student.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "generators": self._generators,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises ValueError where it is something else, or of another training.
        """
        try:
            self.student.module.load_state_dict(state["model"])
            load_optimizer(self._optimizer, state["optimizer"])
            self._scaler.load_state_dict(dict(state["scaler"]))
            generators = [generator.cpu() for generator in state["generators"]]
        except (AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(f"{error!r:.200}") from error
        kinds, own = (
            [(one.dtype, one.shape) for one in some] for some in (generators, self._generators)
        )
        if kinds != own:
            raise ValueError("the states of other generators")
        self._generators = generators

    def _step(self, inputs: Tensor, batch: Batch, mix: Mix | None, distill_weight: float) -> Tensor:
        """One optimizer step -> float64 `(4,)` on the device.

        Loss, label term, distillation term, accuracy.
        """
        config, labels = self.config, batch.labels
        teacher_logits = batch.teacher_logits
        if self._online is not None:
            teacher_logits = self._online(batch.images, batch.rows, batch.views, mix)
        with autocast(config.precision, self.device):
            logits = class_logits(self._forward(inputs)).float()
        classes = config.classes
        outputs: dict[Head, Tensor] = {
            "student": logits[:, :classes],
            "teacher": logits[:, classes:],
        }

        labelled = batch.labelled
        label_term, distillation_term = self._terms(labelled, outputs, labels, teacher_logits)
        if mix is not None:
            partner_logits = dict(teacher_logits)
            if self._online is None:  # a teacher in the loop has seen the mixed image itself
                for head, rows in teacher_logits.items():
                    partner_logits[head] = rows[mix.partner]
            partner_labels = labels[mix.partner]
            partner_terms = self._terms(labelled, outputs, partner_labels, partner_logits)
            label_term = mix.blend(label_term, partner_terms[0])
            distillation_term = mix.blend(distillation_term, partner_terms[1])
        label_weight = config.label_weight * batch.label_weight
        loss = label_weight * label_term + distill_weight * distillation_term
        self._divergence.update(loss)
        self._optimizer.zero_grad(set_to_none=True)
        # the processes' gradients are averaged: weighted so, that is the gradient of the mean over
        # the whole batch
        weight = batch.fraction * self._processes.world_size
        self._scaler.scale(loss * weight).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        accuracy = (outputs["student"].argmax(1) == labels).float().mean()
        label_term = label_term * (labelled / len(labels))  # its part in the sum over an epoch
        return torch.stack([loss, label_term, distillation_term, accuracy]).detach().double()

    def _terms(
        self,
        labelled: int,
        outputs: dict[Head, Tensor],
        labels: Tensor,
        teacher_logits: dict[Head, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Label term and distillation term of the loss.

        The former is 0 for a batch without labels, the latter the mean over the heads that are
        taught.
        """
        label_term = torch.zeros((), device=self.device)
        if labelled:
            label_term = label_loss(outputs["student"], labels, self.config.label_smoothing)
        terms = [
            self._distillation_loss(outputs[head], logits, labels, self.config.temperature)
            for head, logits in teacher_logits.items()
        ]
        return label_term, torch.stack(terms).mean() if terms else torch.zeros_like(label_term)

    def _draw_mix(self, count: int, epoch: int, step: int) -> Mix | None:
        config, size = self.config, self.student.render.size
        if config.mix == "none":
            return None
        stream = f"mix {epoch}/{step}"
        mix = draw_mix(config.mix, count, size, seed=config.seed, stream=stream)
        return dataclasses.replace(mix, partner=to_device(mix.partner, self.device))

    def _when(self, epoch: int, step: int, lr: float) -> str:
        number = epoch * self.steps_per_epoch + step + 1
        return f"step {number} (epoch {epoch + 1}), at learning rate {lr:.2g}"

    def _seeded_generators(self, seed: int) -> list[Tensor]:
        """States of torch's generators, the CPU's and a GPU's own, as seeding makes them.

        They drive dropout and the like.
        """
        with torch.random.fork_rng(self._gpus()):
            torch.manual_seed(seed)
            return self._generator_states()

    def _generator_states(self) -> list[Tensor]:
        gpu = [torch.cuda.get_rng_state(self.device)] if self._gpus() else []
        return [torch.get_rng_state(), *gpu]

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Have torch's generators be this trainer's for a while.

        The caller's come back untouched.
        """
        with torch.random.fork_rng(self._gpus()):
            torch.set_rng_state(self._generators[0])
            if self._gpus():
                torch.cuda.set_rng_state(self._generators[1], self.device)
            yield
            self._generators = self._generator_states()

    def _gpus(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []
