"""The formats in which a student leaves: for each, from module to bytes, and from bytes back to something that predictions."""

import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError
from kdcache.models import class_logits

FACTS = "student.json"
"""Under this name the facts (JSON text) are found inside each file."""


Answer = Callable[[Tensor], Tensor]
"""Input float32 `(B, 3, S, S)` -> logits float32 `(B, K)`."""


@dataclass(frozen=True)
class Format:
    """One format.

    `write` makes a file's bytes from (student, example input `(2, 3, S, S)`, facts); `read` makes from those bytes
    something that answers, for which it may copy the student's architecture but never uses its weights.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, str], bytes]
    read: Callable[[bytes, nn.Module], Answer]


class _Logits(nn.Module):
    """A student that returns nothing but its logits, also where the model wraps them."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return class_logits(self.student(images))


def require_packages(name: str) -> None:
    """Raise KdcacheError where a package that the format needs cannot be imported."""
    packages = FORMATS[name].packages
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise KdcacheError(
                f"the package {package} for --format {name}",
                f"none ({error})",
                f"pip install {' '.join(packages)}",
            ) from error


def write_format(name: str, student: nn.Module, example: Tensor, facts: str) -> bytes:
    """The bytes of `student` in a format. Raises KdcacheError where torch cannot export it."""
    try:
        with _quietly():
            return FORMATS[name].write(student, example, facts)
    except Exception as error:  # a model of one's own can break the exporters in any way
        reason = first_line(error.__cause__ or error)
        raise KdcacheError(
            f"a student that exports as {name} with batches of any size",
            reason,
            "try another --format, or change the model",
        ) from error


def read_format(name: str, raw: bytes, student: nn.Module) -> Answer:
    """What answers from the bytes alone."""
    with _quietly():
        return FORMATS[name].read(raw, student)


def first_line(error: BaseException) -> str:
    """What an error of another library says first, which is what fits in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings, log lines and whole graphs that the exporters print; what they doubt, the check settles."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _write_torchscript(student: nn.Module, example: Tensor, facts: str) -> bytes:
    # With gradients on: without, torch's attention takes a fused path that the graph would be bound to.
    traced = torch.jit.trace(_Logits(student), example, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file, _extra_files={FACTS: facts})
    return file.getvalue()


def _read_torchscript(raw: bytes, student: nn.Module) -> Answer:
    return torch.jit.load(io.BytesIO(raw), map_location="cpu")


def _write_pt2(student: nn.Module, example: Tensor, facts: str) -> bytes:
    program = torch.export.export(_Logits(student), (example,), dynamic_shapes=_any_batch())
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # holds the paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={FACTS: facts})
    return file.getvalue()


def _read_pt2(raw: bytes, student: nn.Module) -> Answer:
    return torch.export.load(io.BytesIO(raw)).module()


def _write_onnx(student: nn.Module, example: Tensor, facts: str) -> bytes:
    import onnx

    program = torch.onnx.export(
        _Logits(student), (example,), dynamo=True, dynamic_shapes=_any_batch(), verbose=False,
        input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, which hold the paths of this machine
    onnx.helper.set_model_props(model, {FACTS: facts})
    return model.SerializeToString()


def _read_onnx(raw: bytes, student: nn.Module) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_safetensors(student: nn.Module, example: Tensor, facts: str) -> bytes:
    import safetensors.torch

    # clones, because safetensors refuses tensors that share memory
    tensors = {
        key: value.detach().clone().contiguous() for key, value in student.state_dict().items()
    }
    return safetensors.torch.save(tensors, metadata={"format": "pt", FACTS: facts})


def _read_safetensors(raw: bytes, student: nn.Module) -> Answer:
    import safetensors.torch

    empty = copy.deepcopy(student)
    with torch.no_grad():
        for value in empty.state_dict().values():
            value.zero_()
    empty.load_state_dict(safetensors.torch.load(raw))
    return _Logits(empty).eval()


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


FORMATS = {
    "torchscript": Format("torchscript", (), _write_torchscript, _read_torchscript),
    "onnx": Format("onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "pt2": Format("pt2", (), _write_pt2, _read_pt2),
    "safetensors": Format("safetensors", ("safetensors",), _write_safetensors, _read_safetensors),
}
