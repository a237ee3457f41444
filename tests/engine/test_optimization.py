"""Layer-wise learning rates, against steps that are worked out by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_trainer import CPU, Images, config, trainer
from torch import nn

from kdcache.engine.optimization import load_optimizer, make_optimizer, set_learning_rate
from kdcache.engine.trainer import Trainer
from kdcache.errors import OptionError
from kdcache.models.heads import head_parameters


class Stack(nn.Module):
    """A head that is registered first, and 15 layers of a weight and a bias: 30 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 2)
        self.body = nn.Sequential(*(nn.Linear(1, 1) for _ in range(15)))

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def reset_classifier(self, classes: int) -> None:
        self.fc = nn.Linear(1, classes)


def recipe(**changes: Any) -> Any:
    plain = {"optimizer": "sgd", "lr": 1.0, "weight_decay": 0.0, "layer_decay": 1.0}
    return SimpleNamespace(**plain | changes)


def step_sizes(layer_decay: float) -> dict[str, float]:
    """How far each tensor goes where all gradients are 1 and the learning rate is 0.1.

    The first step of Nesterov's momentum of 0.9 is 1.9 gradients.
    """
    module = Stack()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = make_optimizer(module, recipe(layer_decay=layer_decay), CPU)
    set_learning_rate(optimizer, 0.1)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        name: (before[name] - value).mean().item() / 0.19
        for name, value in module.named_parameters()
    }


def test_each_twelve_tensors_are_a_layer() -> None:
    """Of 30 in front of the head: 9..14 are the last 12, 3..8 the 12 before, 0..2 the first 6."""
    layers = [0.125] * 3 + [0.25] * 6 + [0.5] * 6
    expected = {"fc.weight": 1.0, "fc.bias": 1.0}
    for number, scale in enumerate(layers):
        expected |= {f"body.{number}.weight": scale, f"body.{number}.bias": scale}
    assert step_sizes(0.5) == pytest.approx(expected, rel=1e-4)


def test_without_decay_all_are_alike() -> None:
    assert list(step_sizes(1.0).values()) == pytest.approx([1] * 32, rel=1e-4)
    optimizer = make_optimizer(Stack(), recipe(), CPU)
    assert len(optimizer.param_groups) == 2, "as files of older versions have them"
    assert all("lr_scale" not in group for group in optimizer.param_groups)


def test_weights_are_decayed_and_biases_are_not() -> None:
    module = Stack()
    optimizer = make_optimizer(module, recipe(layer_decay=0.5, weight_decay=0.25), CPU)
    decays = {}
    for group in optimizer.param_groups:
        decays |= {parameter: group["weight_decay"] for parameter in group["params"]}
    for parameter in module.parameters():
        assert decays[parameter] == (0.25 if parameter.ndim > 1 else 0)


def test_the_state_of_another_decay_is_refused() -> None:
    state = make_optimizer(Stack(), recipe(layer_decay=0.5), CPU).state_dict()
    with pytest.raises(ValueError):
        load_optimizer(make_optimizer(Stack(), recipe(), CPU), state)


@pytest.mark.parametrize("layer_decay", [0.0, 0.5])
def test_a_resumed_training_equals_one_that_was_never_stopped(
    layer_decay: float, indexed_images: Images
) -> None:
    def epoch(one: Trainer, number: int) -> None:
        one.train_epoch(number, lambda *step: None)

    images, given = indexed_images(train=32), config(layer_decay=layer_decay)
    whole, first, second = (trainer(images, given) for _ in range(3))
    for number in range(2):
        epoch(whole, number)
    epoch(first, 0)
    second.load_state_dict(first.state_dict())
    epoch(second, 1)
    for one, other in zip(
        whole.student.module.state_dict().values(),
        second.student.module.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_with_a_decay_of_0_only_the_classifier_is_trained(indexed_images: Images) -> None:
    """The body keeps its weights, and its batch norm its statistics."""
    one = trainer(indexed_images(train=32), config(layer_decay=0.0))
    module = one.student.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    one.train_epoch(0, lambda *step: None)
    changed = {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"5.weight", "5.bias"}
    assert {id(parameter) for parameter in module.parameters() if parameter.requires_grad} == {
        id(parameter) for parameter in head_parameters(module)
    }


def test_nothing_to_train(indexed_images: Images) -> None:
    given = config(layer_decay=0.0, student="tiny_models:without_layers")
    with pytest.raises(OptionError) as error:
        trainer(indexed_images(train=32), given)
    assert str(error.value) == (
        "expected a student with a classifier for --layer-decay 0; found Sequential;"
        " give another --layer-decay"
    )
