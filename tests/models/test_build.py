"""Building models by name: their heads, their stems, and what the seed decides."""

import pytest
import torch
from tiny_weights import TINY, message, outputs, same
from torch import nn

from kdcache.models.build import build_model
from kdcache.models.heads import head_parameters, replace_head
from kdcache.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18", 32), ("mobilenet_v3_small", 32), ("squeezenet1_1", 32), ("vit_tiny", 32)],
)
def test_a_new_head_has_the_wished_number_of_classes(name: str, side: int, tiny_vit: str) -> None:
    built = build_model(name, "none", seed=0, classes=7, image_size=side)
    assert outputs(built.module, side) == 7 and not built.pretrained
    replace_head(built.module, 5)
    assert outputs(built.module, side) == 5


def test_without_a_wish_torchvisions_head_stays() -> None:
    weight, bias = head_parameters(build_model("squeezenet1_1", "none", seed=0).module)
    assert weight.shape == (1000, 512, 1, 1) and bias.shape == (1000,)


@pytest.mark.parametrize(("name", "side"), [("tiny_cnn", 16), ("fully_convolutional", 16)])
def test_a_callables_head_is_replaced(name: str, side: int) -> None:
    assert outputs(build_model(f"tiny_models:{name}", None, seed=0, classes=4).module, side) == 4


def test_a_callable_keeps_its_own_head_where_it_has_the_number() -> None:
    assert (
        outputs(build_model("tiny_models:tiny_teacher", None, seed=0, classes=20).module, 16) == 20
    )
    assert outputs(build_model("tiny_models:tiny_teacher", None, seed=0).module, 16) == 20


@pytest.mark.parametrize("classes", [None, 10, 7])
def test_the_seed_decides_the_weights_and_nothing_else_does(classes: int | None) -> None:
    before = torch.get_rng_state()
    one = build_model(TINY, None, seed=3, classes=classes).module.state_dict()
    torch.rand(5)
    again, other = (
        build_model(TINY, None, seed=seed, classes=classes).module.state_dict() for seed in (3, 4)
    )
    assert same(one, again) and not same(one, other)
    torch.set_rng_state(before)
    build_model(TINY, None, seed=3, classes=classes)
    assert torch.equal(torch.get_rng_state(), before)


def test_small_stem_keeps_the_resolution() -> None:
    module = build_model("resnet18", "none", seed=0, classes=3, small_stem=True).module
    assert module.maxpool(module.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit_tiny"])
def test_small_stem_is_for_resnets(name: str, tiny_vit: str) -> None:
    assert message(lambda: build_model(name, "none", seed=0, small_stem=True)) == (
        f"expected a ResNet for --small-stem; found {name}; omit --small-stem"
    )


def test_what_the_user_says_of_the_input_goes_before_the_weights() -> None:
    plain = build_model(TINY, None, seed=0).preprocessing
    assert plain == Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD)
    given = build_model(TINY, None, seed=0, image_size=32, std=(1.0, 2.0, 3.0)).preprocessing
    assert given == Preprocessing(32, IMAGENET_MEAN, (1.0, 2.0, 3.0))


def test_an_unknown_model() -> None:
    assert message(lambda: build_model("resnet19", "none", seed=0)) == (
        "expected a torchvision classification model, timm/NAME or package.module:callable; found"
        " resnet19; see torchvision.models.list_models()"
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("no_such_package:net", "No module named 'no_such_package'"),
        ("tiny_models:tiny", "module 'tiny_models' has no attribute 'tiny'"),
    ],
)
def test_a_callable_that_cannot_be_had(name: str, found: str) -> None:
    assert message(lambda: build_model(name, None, seed=0)) == (
        f"expected an importable package.module:name; found {name} ({found});"
        " check the name and PYTHONPATH"
    )


def test_a_name_that_is_no_callable() -> None:
    assert message(lambda: build_model("tiny_models:nn", None, seed=0)) == (
        "expected tiny_models:nn to be callable; found module; correct the name"
    )


def test_a_callable_that_needs_arguments() -> None:
    told = message(lambda: build_model("torch.nn:Linear", None, seed=0))
    assert told.startswith(
        "expected torch.nn:Linear to return a model when it is called without arguments; found "
    )
    assert told.endswith("; correct the callable")


def test_a_callable_that_returns_no_module() -> None:
    assert message(lambda: build_model("tiny_models:no_module", None, seed=0)) == (
        "expected tiny_models:no_module() to return an nn.Module; found int; correct the callable"
    )


def test_a_model_without_a_head() -> None:
    assert message(lambda: replace_head(nn.Flatten(), 3)) == (
        "expected a model that ends in a Linear or Conv2d layer; found Flatten; give another model"
    )
    assert build_model("tiny_models:headless", None, seed=0, classes=3).module.state_dict() == {}
