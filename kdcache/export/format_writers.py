"""From a student to the bytes of each format, and from the bytes back to what predicts."""

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcache.export.formats import FACTS_FILE, Format
from kdcache.models import class_logits


class _Logits(nn.Module):
    """A student that returns nothing but its logits, also where the model wraps them."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.eval()  # a new module is in training mode, which torch's ONNX exporter warns of

    def forward(self, images: Tensor) -> Tensor:
        return class_logits(self.student(images))


def _write_pt2(student: nn.Module, example: Tensor, facts: str) -> bytes:
    program = torch.export.export(_Logits(student), (example,), dynamic_shapes=_any_batch())
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # holds the paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={FACTS_FILE: facts})
    return file.getvalue()


def _read_pt2(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(raw)).module()


def _write_onnx(student: nn.Module, example: Tensor, facts: str) -> bytes:
    import onnx  # pyright: ignore[reportMissingImports]: optional

    program = torch.onnx.export(
        _Logits(student),
        (example,),
        dynamo=True,
        dynamic_shapes=_any_batch(),
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
    )
    assert program is not None  # as it is with dynamo
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, which hold the paths of this machine
    onnx.helper.set_model_props(model, {FACTS_FILE: facts})
    return model.SerializeToString()


def _read_onnx(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # pyright: ignore[reportMissingImports]: optional

    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_safetensors(student: nn.Module, example: Tensor, facts: str) -> bytes:
    import safetensors.torch  # pyright: ignore[reportMissingImports]: optional

    tensors = {}
    for key, value in student.state_dict().items():
        # a copy each, because safetensors refuses tensors that share memory
        tensors[key] = value.detach().clone().contiguous()
    return safetensors.torch.save(tensors, metadata={"format": "pt", FACTS_FILE: facts})


def _read_safetensors(raw: bytes, student: nn.Module) -> Callable[[Tensor], Tensor]:
    import safetensors.torch  # pyright: ignore[reportMissingImports]: optional

    module = copy.deepcopy(student)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()
    module.load_state_dict(safetensors.torch.load(raw))
    return _Logits(module)


def _any_batch() -> tuple[dict[int, torch.export.Dim]]:
    # without a largest size torch 2.7 stumbles over attention, which would fail at a batch of 2**63
    return ({0: torch.export.Dim("batch", max=2**31 - 1)},)


PT2 = Format("pt2", (), _write_pt2, _read_pt2)
ONNX = Format("onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx)
SAFETENSORS = Format("safetensors", ("safetensors",), _write_safetensors, _read_safetensors)
