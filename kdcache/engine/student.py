"""A student on its device: built from a config, and what it predicts."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from kdcache.data import Images, Prefetcher, Renderer, Split, whole_image_views
from kdcache.distill import accuracy, class_accuracies, label_loss
from kdcache.engine.resolve import TrainConfig
from kdcache.errors import OptionError
from kdcache.models import Model, build_model, class_logits, head_parameters, replace_head
from kdcache.runtime import (
    MODEL_ERRORS,
    Processes,
    autocast,
    inference_batch_size,
    record_output_sizes,
)


@dataclass(frozen=True)
class Evaluation:
    """A student's predictions on one split; the loss is the mean cross-entropy in nats.

    `class_accuracy` is in the order of the classes, None for a class without images.
    """

    loss: float
    accuracy: float
    predictions: Tensor  # int64 (N,), on the CPU
    logits: Tensor  # float32 (N, K), on the CPU
    class_accuracy: list[float | None]


def build_student(config: TrainConfig) -> Model:
    """The student with a new head: its classes and, for a second head, the teacher's behind them.

    Those of the teacher's classes begin as the student's own ImageNet classifier, where it has one
    for as many.
    """
    classes, known = config.classes, config.preprocessing
    student = build_model(
        config.student,
        config.student_weights,
        seed=config.seed,
        classes=None if config.teacher_classes else classes,
        small_stem=config.small_stem,
        image_size=known.image_size,
        mean=known.mean,
        std=known.std,
    )
    if not config.teacher_classes:
        return student
    before = head_parameters(student.module)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        replace_head(student.module, classes + config.teacher_classes)
    if config.pretrained:
        with torch.no_grad():
            for own, new in zip(before, head_parameters(student.module), strict=False):
                if len(own) == config.teacher_classes:
                    new[classes:] = own
    return student


class Student:
    """A student's module on its device, with the way from images to its input.

    Args:
        config: resolved.
        model: from `build_student`.
        image_shape: height and width in pixels of the images.
        processes: share the images that are predicted.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Model,
        image_shape: tuple[int, int],
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.device, self.classes = device, config.classes
        self._name, self._outputs = config.student, config.classes + config.teacher_classes
        self._precision, self._processes = config.precision, processes
        module = model.module.to(device)
        self.module: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if processes.world_size > 1:
            self.module = _synchronize_batch_norms(self.module, device)
        known = config.preprocessing
        self.render = Renderer(
            known.image_size, known.mean, known.std, image_shape, device, known.interpolation
        )

    @torch.no_grad()
    def check_training(self, smallest_batch: int) -> None:
        """See that the module can be trained: on its input size, and on its smallest batch.

        Its buffers and all random generators are left as they were. Raises OptionError.
        """
        before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        gpus = [self.device] if self.device.type == "cuda" else []
        self.module.train()
        with torch.random.fork_rng(gpus), autocast(self._precision, self.device):
            self._check_forward(2, "give a larger --image-size, or another --student")
            if smallest_batch == 1:
                self._check_forward(1, "give another --batch-size, or another --student")
        for buffer, kept in before:
            buffer.copy_(kept)

    def _check_forward(self, images: int, remedy: str) -> None:
        size = self.render.size
        expected = f"a student that trains on batches of {images} x 3 x {size} x {size}"
        try:
            inputs = torch.zeros(images, 3, size, size, device=self.device)
            shape = class_logits(self.module(inputs)).shape
        except torch.OutOfMemoryError:
            raise
        except MODEL_ERRORS as error:
            reason = f"{self._name}: {str(error).splitlines()[0]}"
            raise OptionError(expected, reason, remedy) from error
        if shape != (images, self._outputs):
            expected = f"a student that returns logits ({images}, {self._outputs})"
            raise OptionError(expected, f"{self._name}: {tuple(shape)}", "correct the model")

    @torch.inference_mode()
    def predict(self, images: Images, rows: Tensor, views: Tensor) -> Tensor:
        """Rows int64 `(R,)` of images uint8 `(N, 3, H, W)` in views `(R, 5)`.

        Returns logits float32 `(R, K)` on the CPU.
        """
        self.module.eval()
        views_in_batches = views.to(self.device).split(self._batch_size)
        sizes = [len(batch) for batch in views_in_batches]
        prefetcher = Prefetcher(images, self.device, streamed=True)
        images_in_batches = prefetcher.batches(sizes, rows)
        logits = []
        for some_images, some_views in zip(images_in_batches, views_in_batches, strict=True):
            with autocast(self._precision, self.device):
                output = self.module(self.render(some_images, some_views))
                logits.append(class_logits(output).float()[:, : self.classes])
        return torch.cat(logits).cpu()

    def evaluate(self, split: Split) -> Evaluation:
        """Loss and accuracy on the whole images of a split."""
        whole = whole_image_views(len(split), *split.images.shape[2:])
        self._processes.broadcast_tensors(self.module.buffers())
        rows = self._processes.shard(torch.arange(len(split)))
        own = self.predict(split.images, rows, whole[rows])
        logits = self._processes.all_gather(own)
        return Evaluation(
            label_loss(logits, split.labels).item(),
            accuracy(split.labels, logits),
            logits.argmax(1),
            logits,
            class_accuracies(split.labels, logits),
        )

    @cached_property
    def _batch_size(self) -> int:
        size = self.render.size
        with record_output_sizes(self.module) as sizes, autocast(self._precision, self.device):
            self.module(torch.zeros(2, 3, size, size, device=self.device))
        return inference_batch_size(max(sizes), self.device)


def _synchronize_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Batch norms over all processes' rows on a GPU.

    On a CPU PyTorch has none, and each process has its own statistics.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(module) if device.type == "cuda" else module
