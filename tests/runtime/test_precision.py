"""In which precision and batches a model runs; operations and bytes are worked out by hand."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdcache.runtime import precision as arithmetic
from kdcache.runtime.precision import (
    autocast,
    emulates,
    forward_flops,
    inference_batch_size,
    pick_precision,
    record_output_sizes,
    training_memory,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_is_that_of_the_arithmetic(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype


class Looks(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * inputs.sum().item()


def never_asked() -> float:
    raise AssertionError("nothing here depends on the operations")


def pointwise_convolution(width: int) -> nn.Module:
    """A 1 x 1 convolution: 2 * 3 * width operations a pixel."""
    return nn.Conv2d(3, width, 1)


@pytest.mark.parametrize(
    ("has_bf16", "width", "expected"),
    [
        (True, 1670, "bf16"),  # 2 * 3 * 1670 * 316² operations: 1.0006e9
        (False, 1670, "fp32"),
        (True, 1668, "fp32"),  # 0.9994e9
    ],
)
def test_auto_on_a_cpu_is_bf16_for_large_models_where_it_has_it(
    has_bf16: bool, width: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16}, raising=False
    )

    def operations() -> float:
        return forward_flops(pointwise_convolution(width), 316)

    assert pick_precision("auto", CPU, operations, on_gpu="fp16") == expected


@pytest.mark.parametrize(
    ("on_gpu", "native", "expected"),
    [
        ("bf16", True, "bf16"),
        ("bf16", False, "fp16"),
        ("fp16", True, "fp16"),
        ("fp16", False, "fp16"),
    ],
)
def test_auto_on_a_gpu_is_what_the_phase_wishes_and_the_gpu_has(
    on_gpu: str, native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: native and not including_emulation,
    )
    assert pick_precision("auto", GPU, never_asked, on_gpu=on_gpu) == expected


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_precision_that_is_given_stays(device: torch.device) -> None:
    assert pick_precision("fp16", device, never_asked, on_gpu="bf16") == "fp16"


def test_without_news_of_the_processor_it_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not arithmetic.cpu_has_bf16()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True}, [False, True, True]),
        ({"architecture": "x86_64", "avx512_bf16": True}, [False, False, True]),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_fp16": True}, [False] * 3),
        ({"architecture": "aarch64"}, [False] * 3),  # nothing is known of it
        ({}, [False] * 3),
    ],
)
def test_what_a_cpu_emulates(
    capabilities: dict[str, object], expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert [emulates(name, CPU) for name in ("fp32", "bf16", "fp16")] == expected
    assert not any(emulates(name, GPU) for name in ("fp32", "bf16", "fp16"))


def test_flops_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    assert forward_flops(module, 16) == 2 * (16 * 16 * 8 * 3 * 9 + 8 * 5)


def test_flops_of_a_transformer_count_its_attention() -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model("vit_b_16").requires_grad_(False)
    tokens, width, depth = 197, 768, 12
    layers = depth * (
        12 * tokens * width**2 + 2 * tokens**2 * width
    )  # projections and MLP; scores and their sums
    patches, head = 196 * width * 3 * 16 * 16, width * 1000
    assert forward_flops(module, 224) == 2 * (layers + patches + head)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_looks_at_its_data_has_unknown_flops() -> None:
    assert math.isnan(forward_flops(Looks(), 8))
    assert torch.backends.mha.get_fastpath_enabled()


def test_outputs_are_noted_in_bytes_an_image() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    with record_output_sizes(module) as sizes:
        module(torch.zeros(2, 3, 16, 16))
    assert max(sizes) == 8 * 16 * 16 * 4
    assert sorted(sizes) == [
        0,
        5 * 4,
        5 * 4,
        8 * 4,
        8 * 4,
        8 * 16 * 16 * 4,
    ]  # the whole has the last layer's
    module(torch.zeros(2, 3, 64, 64))
    assert max(sizes) == 8 * 16 * 16 * 4


def test_training_takes_all_outputs_and_four_times_the_weights() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16 * 16, 5))
    outputs = 2 * 8 * 16 * 16 + 2 * 5  # the whole has the last layer's
    weights = 3 * 8 * 9 + 8 + 8 * 16 * 16 * 5 + 5
    assert training_memory(module, 16, 32) == 4 * (32 * outputs + 4 * weights)


def test_a_model_that_looks_at_its_data_has_unknown_memory() -> None:
    assert training_memory(Looks(), 8, 2) == math.inf


@pytest.mark.parametrize(
    ("largest", "batch"),
    [
        (197 * 3072 * 4, 32),  # ViT-B/16's hidden layer in fp32: 128 MiB hold 55
        (197 * 3072 * 2, 64),  # in bf16: 110
        (1 << 30, 1),
        (1 << 27, 1),
        (1 << 26, 2),
        (40, 512),
        (0, 512),
    ],
)
def test_on_a_cpu_the_batch_follows_the_largest_output(largest: int, batch: int) -> None:
    assert inference_batch_size(largest, CPU) == batch


def test_on_a_gpu_the_batch_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 GiB that nobody has and 1 that torch does not use: a 32nd is 96 MiB, or 40.6 of 2.36 MiB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 << 30)
    assert inference_batch_size(197 * 3072 * 4, GPU) == 32
    assert inference_batch_size(100, GPU) == 512
