"""Phase two: train one student from labels and cached soft targets."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.config import LOSSES, TrainOptions
from kdcache.data import ImageData, Mix, Prefetcher, Renderer, Split, draw_mix, draw_views
from kdcache.distill import TeacherTargets, label_loss
from kdcache.engine.batches import Batch, Batches
from kdcache.engine.divergence import DivergenceMonitor
from kdcache.engine.optimizer import make_optimizer
from kdcache.models import Model, build_model, class_logits, head_parameters, replace_head
from kdcache.runtime import (
    SINGLE_PROCESS,
    Processes,
    autocast,
    compiled,
    inference_batch_size,
    keep_freed_memory,
    record_output_sizes,
    to_device,
)

OnlineLogits = Callable[[Tensor, Tensor, Tensor, Mix | None], dict[str, Tensor]]


_POLL_EVERY = 50  # steps between two looks at the largest loss


@dataclass(frozen=True)
class Evaluation:
    """A student's predictions on one split."""

    loss: float
    accuracy: float
    predictions: np.ndarray  # int64 (N,)
    logits: Tensor  # float32 (N, K), on the CPU


def build_student(options: TrainOptions, classes: int, teacher_classes: int) -> Model:
    """The student with a new head of `classes` outputs; for the projections with `head`, `teacher_classes` more.

    Those of the teacher's classes begin as the student's own ImageNet classifier where it has one for them.
    """
    arguments = {
        "seed": options.seed,
        "small_stem": options.small_stem,
        "image_size": options.image_size,
        "mean": options.mean,
        "std": options.std,
    }
    if "head" not in (options.projection or ""):
        return build_model(options.student, options.student_weights, classes=classes, **arguments)
    student = build_model(options.student, options.student_weights, **arguments)
    weight, bias = head_parameters(student.module)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        replace_head(student.module, classes + teacher_classes)
    if student.pretrained and len(weight) == teacher_classes:
        new_weight, new_bias = head_parameters(student.module)
        with torch.no_grad():
            new_weight[classes:] = weight
            if bias is not None:
                new_bias[classes:] = bias
    return student


class Trainer:
    """One student's training: epochs, evaluation, and all the state that a resumed run needs.

    Args:
        options: resolved.
        student: from `build_student`.
        images: divided dataset; its training part is what is learned from.
        targets: None where there is no cache.
        view_table: int16 `(N, V, 5)`, the cached views of the training part; None where there is no cache.
        live: called with (images, rows, views, mix) of each step, answers as `TeacherTargets.train` would; None reads the targets.
        processes: share each batch and its gradient; all of them must make the same calls.
    """

    def __init__(
        self,
        options: TrainOptions,
        student: Model,
        images: ImageData,
        targets: TeacherTargets | None,
        view_table: np.ndarray | None,
        device: torch.device,
        live: OnlineLogits | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.options, self.device, self._live, self._processes = options, device, live, processes
        self.classes = len(images.class_names)
        self.module = student.module.to(device, memory_format=torch.channels_last)
        if processes.world_size > 1:
            self.module = _sharing_statistics(self.module, device)
        together = DistributedDataParallel(self.module) if processes.world_size > 1 else self.module
        self._forward = compiled(together, options.compile)
        taught = targets.train if targets is not None and live is None and options.alpha > 0 else {}
        self._batches = Batches(options, images, taught, view_table, device, processes)
        self._distillation_loss = LOSSES.load(options.loss)
        size, mean, std, _ = vars(student.preprocessing).values()
        self.render = Renderer(size, mean, std, images.image_shape, device)
        self._images_per_epoch, self.steps_per_epoch = (
            len(images.splits["train"]),
            self._batches.steps,
        )
        self._optimizer = make_optimizer(self.module, options, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._divergence = DivergenceMonitor(device)
        torch.manual_seed(options.seed + processes.rank)  # dropout and the like

    def train_epoch(
        self, epoch: int, after_step: Callable[[int, Tensor, Tensor, Tensor], None]
    ) -> dict[str, float]:
        """Show every training image once, in the view drawn for this epoch (0, 1, ...).

        Args:
            after_step: called with (step of this epoch, image_index, view_index, inputs) of the batch just learned from.

        Returns the means over the images: train_loss, label_loss, distillation_loss (nats), train_accuracy, and lr.
        """
        self.module.train()
        sums = torch.zeros(4, device=self.device, dtype=torch.float64)
        for step, batch in enumerate(self._batches.of(epoch)):
            learning_rate = self._learning_rate(epoch * self.steps_per_epoch + step)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            mix = self._draw_mix(len(batch.rows), epoch, step)
            inputs = self.render(batch.images, batch.views)
            inputs = inputs if mix is None else mix.images(inputs)
            sums += self._step(inputs, batch, mix) * len(batch.rows)
            after_step(step, batch.rows, batch.view_index, inputs)
            if step == 0 and self.device.type == "cpu":
                keep_freed_memory()  # now that a step has shown how much it needs
            if step % _POLL_EVERY == _POLL_EVERY - 1:
                self._divergence.poll(self._when(epoch, step))
        loss, label_term, distillation_term, correct = (
            self._processes.all_reduce(sums) / self._images_per_epoch
        ).tolist()
        self._divergence.poll(self._when(epoch, self.steps_per_epoch - 1))
        self._divergence.flush()
        return {
            "lr": learning_rate,
            "train_loss": loss,
            "label_loss": label_term,
            "distillation_loss": distillation_term,
            "train_accuracy": correct,
        }

    def _when(self, epoch: int, step: int) -> str:
        number = epoch * self.steps_per_epoch + step
        return f"step {number + 1} (epoch {epoch + 1}), at learning rate {self._learning_rate(number):.2g}"

    def _draw_mix(self, count: int, epoch: int, step: int) -> Mix | None:
        options = self.options
        if options.mix == "none":
            return None
        mix = draw_mix(
            options.mix, count, self.render.size, seed=options.seed, stream=f"mix {epoch}/{step}"
        )
        return dataclasses.replace(mix, partner=to_device(mix.partner, self.device))

    def _terms(
        self, outputs: dict[str, Tensor], labels: Tensor, taught: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Label term and distillation term of the loss; the latter is the mean over the heads that are taught."""
        label_term = label_loss(outputs["student"], labels, self.options.label_smoothing)
        terms = [
            self._distillation_loss(
                outputs[classes], teacher_logits, labels, self.options.temperature
            )
            for classes, teacher_logits in taught.items()
        ]
        return label_term, torch.stack(terms).mean() if terms else torch.zeros_like(label_term)

    def _step(self, inputs: Tensor, batch: Batch, mix: Mix | None) -> Tensor:
        """One optimizer step -> float64 `(4,)` on the device: loss, label term, distillation term, accuracy."""
        options, labels = self.options, batch.labels
        taught = (
            batch.taught
            if self._live is None
            else self._live(batch.images, batch.rows, batch.views, mix)
        )
        with autocast(options.precision, self.device):
            logits = class_logits(self._forward(inputs)).float()
        student_logits = logits[:, : self.classes]
        outputs = {"student": student_logits, "teacher": logits[:, self.classes :]}

        label_term, distillation_term = self._terms(outputs, labels, taught)
        if mix is not None:
            others = (
                taught
                if self._live is not None
                else {name: rows[mix.partner] for name, rows in taught.items()}
            )
            of_partner = self._terms(
                outputs, labels[mix.partner], others
            )  # a live teacher has seen the mixed image itself
            label_term, distillation_term = map(
                mix.blend, (label_term, distillation_term), of_partner
            )
        loss = (1 - options.alpha) * label_term + options.alpha * distillation_term
        self._divergence.update(loss)
        self._optimizer.zero_grad(set_to_none=True)
        # the processes' gradients are averaged: weighted so, that is the gradient of the mean over the whole batch
        self._scaler.scale(loss * (batch.share * self._processes.world_size)).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        accuracy = (student_logits.argmax(1) == labels).float().mean()
        return torch.stack([loss, label_term, distillation_term, accuracy]).detach().double()

    @torch.inference_mode()
    def predict(self, images: Tensor, views: Tensor) -> Tensor:
        """Logits float32 `(N, K)` for images uint8 `(N, 3, H, W)` and views `(N, 5)`, on the CPU."""
        self.module.eval()
        parts, batch = [], self._inference_batch_size
        sizes = [len(part) for part in views.split(batch)]
        supply = Prefetcher(images, self.device, streamed=True)
        for some_images, some_views in zip(
            supply.batches(sizes, torch.arange(len(images))),
            views.to(self.device).split(batch),
            strict=True,
        ):
            with autocast(self.options.precision, self.device):
                parts.append(
                    class_logits(self.module(self.render(some_images, some_views))).float()[
                        :, : self.classes
                    ]
                )
        return torch.cat(parts).cpu()

    @cached_property
    def _inference_batch_size(self) -> int:
        size = self.render.size
        with (
            record_output_sizes(self.module) as sizes,
            autocast(self.options.precision, self.device),
        ):
            self.module(torch.zeros(2, 3, size, size, device=self.device))
        return inference_batch_size(max(sizes), self.device)

    def evaluate(self, split: Split) -> Evaluation:
        """Loss and accuracy on the whole images of a split."""
        whole = draw_views("none", len(split), *split.images.shape[2:], views=1, seed=0, stream="")[
            :, 0
        ]
        self._processes.broadcast_tensors(self.module.buffers())
        part = self.predict(*map(self._processes.shard, (split.images, torch.from_numpy(whole))))
        logits = self._processes.all_gather(part)
        predictions = logits.argmax(1)
        accuracy = (predictions == split.labels).float().mean().item()
        return Evaluation(
            label_loss(logits, split.labels).item(), accuracy, predictions.numpy(), logits
        )

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer, scaler and generators: with the epoch's number, all that decides what comes next."""
        cuda = self.device.type == "cuda"
        return {
            "model": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "generators": [torch.get_rng_state()]
            + ([torch.cuda.get_rng_state(self.device)] if cuda else []),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"][0].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"][1].cpu(), self.device)

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up over the first share of the steps, then a cosine to 0."""
        total = self.options.epochs * self.steps_per_epoch
        rising = self.options.warmup * total
        if step < rising:
            return self.options.lr * (step + 1) / math.ceil(rising)
        return (
            self.options.lr * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising))) / 2
        )


def _sharing_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """Batch norms over all processes' rows, on a GPU; on a CPU PyTorch has none, and each process has its own statistics."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(module) if device.type == "cuda" else module
