"""How a model computes on a device: in which precision, and how many images at a time."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcache.runtime.devices import free_memory

# Measured on an AVX512-BF16 processor (docs/log.md): larger models train 1.6 to 1.9 times as fast
# in bf16 as in fp32, smaller ones gain little or lose half.
_WORTH_BF16 = 1e9  # floating-point operations of one image going forward

# of x86 processors, for products; any of them will do
_INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}

_CPU_BUDGET = 128 << 20  # bytes for the largest layer's output; larger batches are no faster
# of a GPU's free memory, for the largest layer's output; some eight such tensors live at once
_GPU_FRACTION = 1 / 32
_LARGEST_BATCH = 512

# what a model may raise on an input that it does not take
MODEL_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    RuntimeError,
    TypeError,
    ValueError,
)


def pick_precision(
    name: str, device: torch.device, operations: Callable[[], float], *, on_gpu: str
) -> str:
    """fp32, bf16 or fp16: `name`, or what suits model and device where it is auto.

    auto is `on_gpu` on a GPU, fp16 where that is bf16 and the GPU only emulates it; bf16 on a CPU
    that has instructions for it, for models of 1 GFLOP or more; otherwise fp32.

    Args:
        operations: of one image going forward, as `forward_flops` counts them; called only where
            the choice depends on them.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        emulated = on_gpu == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "fp16" if emulated else on_gpu
    if device.type != "cpu" or not cpu_has_bf16():
        return "fp32"
    return "bf16" if operations() >= _WORTH_BF16 else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products; older versions of torch do not tell."""
    return _has_instructions("bf16")


def emulates(precision: str, device: torch.device) -> bool:
    """Whether a processor is known to lack instructions for products in fp32, bf16 or fp16.

    With AVX2 alone 1 GFLOP/s was measured for bf16 and fp16, and 100 for fp32.
    """
    if device.type != "cpu" or _capabilities().get("architecture") != "x86_64":
        return False
    return precision in _INSTRUCTIONS and not _has_instructions(precision)


def _has_instructions(precision: str) -> bool:
    """Whether an x86 processor says that it has instructions for products in bf16 or fp16."""
    return any(_capabilities().get(name, False) for name in _INSTRUCTIONS[precision])


def _capabilities() -> dict[str, Any]:
    """What torch knows of this processor; empty in older versions."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context in which a model runs with fp32, bf16 or fp16 arithmetic."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype)


def compiled(module: nn.Module, mode: str) -> nn.Module:
    """The module in a mode of torch.compile (reduce-overhead: CUDA graphs); as it is for none."""
    return module if mode == "none" else cast(nn.Module, torch.compile(module, mode=mode))


def forward_flops(module: nn.Module, image_size: int) -> float:
    """Floating-point operations of one image going forward, a multiply-add being two.

    Counted on a copy without data, so it costs little. The fused attention is switched off for it:
    the counter does not know that operator and would miss a third of a transformer.

    Returns nan where they cannot be counted.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        empty = copy.deepcopy(module).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            empty(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except Exception:  # a model that looks at its data, or cannot be copied, raises nearly anything
        return math.nan
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def training_memory(module: nn.Module, image_size: int, batch_size: int) -> float:
    """About the bytes of a training step: all layers' outputs, and four times the weights.

    Measured: 0.8 to 1.7 of what seven models took on a CPU. Returns inf where they cannot be told.
    """
    try:
        empty = copy.deepcopy(module).to("meta")
        with record_output_sizes(empty) as sizes, torch.no_grad():
            empty(torch.zeros(2, 3, image_size, image_size, device="meta"))
    except Exception:  # as in forward_flops
        return math.inf
    return batch_size * sum(sizes) + 4 * sum(weight.nbytes for weight in module.parameters())


def inference_batch_size(largest: float, device: torch.device) -> int:
    """How many images to run at once through a model that is not trained: a power of 2 in 1..512.

    On a CPU as many as keep it busy, on a GPU as many as its free memory surely takes.

    Args:
        largest: bytes of one image's largest output of any layer, from `record_output_sizes`.
    """
    budget = _GPU_FRACTION * free_memory(device) if device.type == "cuda" else _CPU_BUDGET
    affordable = budget / max(largest, 1)
    return 1 << int(math.log2(min(max(affordable, 1), _LARGEST_BATCH)))


@contextlib.contextmanager
def record_output_sizes(module: nn.Module) -> Iterator[list[float]]:
    """While the block runs, list the bytes per image of each layer's output `(B, ...)`.

    It begins with a 0, so that it always has a maximum; outputs that are no tensor do not count.
    """
    sizes: list[float] = [0]

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.ndim:
            sizes.append(output.nbytes / max(1, len(output)))

    handles = [layer.register_forward_hook(record) for layer in module.modules()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()
