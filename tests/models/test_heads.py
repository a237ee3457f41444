"""The two ends of a model: finding and replacing its head, and what of a student is kept."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdcache.errors import OptionError
from kdcache.models.heads import (
    class_logits,
    count_classes,
    find_heads,
    has_small_stem,
    lacks_head,
    make_small_stem,
    remove_head,
    replace_head,
    student_state_dict,
    takes_head,
)
from kdcache.models.weights import device_to_look_at


def test_the_last_linear_is_the_head_and_without_one_the_last_convolution() -> None:
    body = nn.Conv2d(3, 4, 3)
    assert find_heads(nn.Sequential(body, nn.Linear(4, 6), nn.Linear(6, 5), nn.ReLU()))[0][0] == "2"
    assert find_heads(nn.Sequential(body, nn.Conv2d(4, 7, 1), nn.Flatten()))[0][0] == "1"


def test_the_projection_inside_attention_is_no_head() -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.MultiheadAttention(4, 2))
    assert find_heads(module)[0][0] == "0"
    assert count_classes(module) == 4


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("alexnet", "classifier.6"),
        ("convnext_tiny", "classifier.2"),
        ("densenet121", "classifier"),
        ("efficientnet_b0", "classifier.1"),
        ("googlenet", "fc"),
        ("inception_v3", "fc"),
        ("maxvit_t", "classifier.5"),
        ("mnasnet0_5", "classifier.1"),
        ("mobilenet_v2", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("regnet_y_400mf", "fc"),
        ("resnet18", "fc"),
        ("shufflenet_v2_x0_5", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("swin_t", "head"),
        ("swin_v2_t", "head"),
        ("vgg11", "classifier.6"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_the_heads_of_torchvisions_families(name: str, head: str) -> None:
    with torch.device(device_to_look_at(name)):
        plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        module = torchvision.models.get_model(name, **plain)
    assert [name for name, _ in find_heads(module)] == [head]
    assert count_classes(module) == 1000
    replace_head(module, 7)
    assert count_classes(module) == 7


class _Reordered(nn.Module):
    """Its parts are registered in another order than they are used in."""

    def __init__(self, fc: nn.Module) -> None:
        super().__init__()
        self.fc = fc
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.body(inputs))


def test_features_are_what_the_head_takes_in() -> None:
    inputs = torch.rand(2, 3, 2, 2)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 5))
    expected = linear[:3](inputs)
    remove_head(linear)
    assert torch.equal(linear(inputs), expected)
    # SqueezeNet's order: a convolution to the classes, and then the mean over the positions
    convolution = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    remove_head(convolution)
    torch.testing.assert_close(convolution(inputs), inputs.mean((2, 3)))


def test_a_classifier_that_was_replaced_by_nothing() -> None:
    """As people make a feature extractor of a model: `model.fc = nn.Identity()`."""
    headless = _Reordered(nn.Identity())
    assert lacks_head(headless) and not takes_head(headless) and count_classes(headless) is None
    inputs = torch.rand(2, 3, 2, 2)
    expected = headless(inputs)
    remove_head(headless)
    assert torch.equal(headless(inputs), expected)
    assert not lacks_head(nn.Linear(2, 3)) and not lacks_head(nn.Flatten())
    headless.classifier = nn.Linear(4, 3)
    assert not lacks_head(headless), "one of the places where a head may be has one"


def test_a_model_without_a_head() -> None:
    assert count_classes(nn.Flatten()) is None
    with pytest.raises(OptionError) as error:
        replace_head(nn.Flatten(), 3)
    assert str(error.value) == (
        "expected a model that ends in a Linear or Conv2d layer; found Flatten; give another model"
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "head", [lambda bias: nn.Linear(4, 3, bias=bias), lambda bias: nn.Conv2d(4, 3, 1, bias=bias)]
)
def test_a_new_head_is_like_the_old_one_but_for_its_classes(head: type, bias: bool) -> None:
    module = nn.Sequential(nn.Sequential(head(bias)))
    replace_head(module, 5)
    ((_, new),) = find_heads(module)
    assert count_classes(module) == 5
    assert type(new) is type(head(bias))
    assert (new.bias is not None) == bias
    assert new.weight.shape[1:] == head(bias).weight.shape[1:]


def test_a_small_stem_is_seen_in_a_state_dict() -> None:
    def net() -> nn.Module:
        return torchvision.models.resnet18(num_classes=2)

    small = net()
    make_small_stem(small, "resnet18")
    assert has_small_stem(net(), small.state_dict())
    assert not has_small_stem(net(), net().state_dict())
    assert not has_small_stem(small, small.state_dict())
    assert not has_small_stem(nn.Linear(2, 2), small.state_dict())


def test_a_student_keeps_the_first_outputs_of_its_head() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 5))
    state = student_state_dict(module, 3)
    own = module.state_dict()
    for key in own.keys() - {"2.weight", "2.bias"}:
        assert torch.equal(state[key], own[key])
    assert torch.equal(state["2.weight"], own["2.weight"][:3])
    assert torch.equal(state["2.bias"], own["2.bias"][:3])
    with torch.no_grad():
        own["0.weight"].add_(1)
    assert not torch.equal(state["0.weight"], own["0.weight"]), "it is a copy"
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in state.values())


def test_wrapped_outputs_are_unwrapped() -> None:
    logits = torch.zeros(2, 3)
    assert class_logits(logits) is logits
    assert class_logits(torchvision.models.GoogLeNetOutputs(logits, None, None)) is logits
