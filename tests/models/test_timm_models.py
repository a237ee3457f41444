"""timm's models by name: what they expect as input, their weights, and their heads."""

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from tiny_weights import message, outputs, same, saved

from kdcache.models import known_preprocessing
from kdcache.models.build import begins_pretrained, build_model
from kdcache.models.heads import count_classes, find_heads, replace_head
from kdcache.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

HALVES = (0.5, 0.5, 0.5)


def pretrained(name: str, classes: int, **arguments: object) -> dict[str, torch.Tensor]:
    """The state dict of timm's own model, with the weights of another seed than the tests'."""
    torch.manual_seed(5)
    return timm.create_model(name, num_classes=classes, **arguments).state_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `timm/local-dir:` reads it: a config and weights for two classes."""
    model = timm.create_model("test_vit", num_classes=2)
    state = pretrained("test_vit", 2)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    known = {
        **{key: model.pretrained_cfg[key] for key in ("classifier", "first_conv")},
        "input_size": [3, 160, 160],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "label_names": ["n01", "n02"],
        "label_descriptions": {"n01": "a cat", "n02": "a dog"},
    }
    document = {"architecture": "test_vit", "num_classes": 2, "pretrained_cfg": known}
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path


def test_a_models_own_input() -> None:
    """Worked out from timm's page of each: 160 px, halves; DINOv2 has 518 px and no classes."""
    expected = Preprocessing(160, HALVES, HALVES, interpolation="bicubic")
    assert known_preprocessing("timm/test_vit", "none") == expected
    dino = known_preprocessing("timm/vit_small_patch14_dinov2.lvd142m", "pretrained")
    assert dino == Preprocessing(518, IMAGENET_MEAN, IMAGENET_STD, interpolation="bicubic")
    assert known_preprocessing("timm/resnet50.tv_in1k", "none").interpolation == "bilinear"


def test_the_classes_of_timms_own_weights() -> None:
    """Their number and order are ImageNet's: 0 is a tench, 999 toilet paper."""
    names = known_preprocessing("timm/test_vit", "pretrained").class_names
    assert len(names) == 1000
    assert names[0].startswith("tench") and names[999].startswith("toilet tissue")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("classes", [None, 7])
def test_random_weights_of_a_seed(name: str, classes: int | None) -> None:
    one, again, other = (
        build_model(f"timm/{name}", "none", seed=seed, classes=classes) for seed in (3, 3, 4)
    )
    assert not one.pretrained
    assert outputs(one.module, 160) == (classes or 1000)
    assert same(one.module.state_dict(), again.module.state_dict())
    assert not same(one.module.state_dict(), other.module.state_dict())


def test_another_input_size() -> None:
    built = build_model("timm/test_vit", "none", seed=0, classes=3, image_size=64)
    assert built.preprocessing.image_size == 64 and outputs(built.module, 64) == 3
    name = "timm/xcit_nano_12_p16_224"
    assert message(lambda: build_model(name, "none", seed=0, image_size=30)) == (
        f"expected an --image-size that {name} takes; found 30 (`patch_size` should divide image"
        " dimensions evenly); give another one"
    )


@pytest.mark.parametrize("suffix", ["pth", "bin", "safetensors"])
def test_weights_of_a_file(suffix: str, tmp_path: Path) -> None:
    state, path = pretrained("test_resnet", 5), tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        saved(path, state)
    built = build_model("timm/test_resnet", str(path), seed=0)
    assert built.pretrained and same(built.module.state_dict(), state)
    assert built.preprocessing.mean == HALVES, "the model's own, though the file does not say so"
    narrower = build_model("timm/test_resnet", str(path), seed=0, classes=2).module
    assert outputs(narrower, 160) == 2
    assert torch.equal(narrower.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_weights_of_another_input_size_have_their_positions_stretched(tmp_path: Path) -> None:
    """As timm does it: what it makes of the same weights itself."""
    path = saved(tmp_path / "weights.pth", pretrained("test_vit", 5))
    built = build_model("timm/test_vit", path, seed=0, image_size=64).module
    expected = timm.create_model(
        "test_vit",
        pretrained=True,
        img_size=64,
        num_classes=5,
        pretrained_cfg_overlay={"file": path, "num_classes": 5},
    )
    assert same(built.state_dict(), expected.state_dict())


def test_weights_without_a_head(tmp_path: Path) -> None:
    """As DINOv2's are: a student gets a head, a teacher has none."""
    name = "timm/vit_small_patch14_dinov2.lvd142m"
    path = saved(tmp_path / "weights.pth", pretrained(name[5:], 0, img_size=28))
    assert count_classes(build_model(name, path, seed=0, image_size=28).module) is None
    built = build_model(name, path, seed=0, classes=3, image_size=28).module
    assert outputs(built, 28) == 3


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", pretrained("test_resnet", 5))
    told = message(lambda: build_model("timm/test_vit", path, seed=0))
    assert told.startswith(f"expected weights that fit timm/test_vit from {path}; found missing ")
    assert told.endswith("more; give weights of this model") and "\n" not in told


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\0" * 100)
    told = message(lambda: build_model("timm/test_vit", str(path), seed=0))
    assert told.startswith(f"expected a state dict saved by safetensors; found {path}, which is ")


def test_a_small_stem_and_its_weights(tmp_path: Path) -> None:
    """timm's resnet18 has torchvision's stem: what a student with the small one left is read."""
    student = build_model("timm/resnet18", "none", seed=1, classes=3, small_stem=True).module
    assert student.maxpool(student.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    path = saved(tmp_path / "student.pth", student.state_dict())
    built = build_model("timm/resnet18", path, seed=0).module
    assert same(built.state_dict(), student.state_dict())


def test_heads_that_are_not_the_last_module() -> None:
    """A distilled transformer has two, and the mean of their logits is its prediction."""
    arguments = {"img_size": 32, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, **arguments)
    model.appended = torch.nn.Linear(3, 3)
    assert [name for name, _ in find_heads(model)] == ["head", "head_dist"]
    replace_head(model, 6)
    assert [head.out_features for _, head in find_heads(model)] == [6, 6]
    assert outputs(model, 32) == 6


@pytest.mark.parametrize(
    "name",
    [
        "test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_nfnet",
        "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224",
    ],
)  # fmt: skip
def test_features_are_timms_own_pre_logits(name: str) -> None:
    built = build_model(f"timm/{name}", "none", seed=3, output="features")
    torch.manual_seed(3)
    model = timm.create_model(name).eval()
    inputs = torch.rand(2, 3, built.preprocessing.image_size, built.preprocessing.image_size)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(built.module.eval()(inputs), expected)
    assert built.output == "features" and expected.ndim == 2


def test_a_folder(folder: Path) -> None:
    name = f"timm/local-dir:{folder}"
    built = build_model(name, None, seed=0)
    assert built.pretrained and built.weights == "pretrained"
    assert built.preprocessing == Preprocessing(
        160, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a cat", "a dog"), "bilinear"
    )
    assert same(built.module.state_dict(), pretrained("test_vit", 2))
    assert outputs(build_model(name, None, seed=0, classes=5).module, 160) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": [3, 160]},
        {"input_size": "large"},
        {"input_size": [3, 0, 0]},
        {"mean": [0.5]},
        {"mean": 0.5},
        {"std": [0.5, 0.5, "0.5"]},
        {"num_classes": "many"},
        {"num_classes": None},
    ],
)
def test_a_folder_of_a_stranger(changes: dict[str, object], folder: Path) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document["pretrained_cfg"] |= changes
    document |= {key: value for key, value in changes.items() if key in document}
    path.write_text(json.dumps(document))
    name = f"timm/local-dir:{folder}"
    told = message(lambda: build_model(name, None, seed=0))
    assert f"which timm has; found {name}; see" in told


def test_an_input_that_is_not_square(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("[3, 160, 160]", "[3, 160, 96]"))
    name = f"timm/local-dir:{folder}"
    assert message(lambda: build_model(name, None, seed=0)) == (
        f"expected a model with a square input, resized bilinear or bicubic; found {name} with"
        " 160 x 96 pixels, bilinear; give another model"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_net", ""),
        ("resnet50.no_such_weights", " (Invalid pretrained tag (no_such_weights) for resnet50.)"),
        ("local-dir:nowhere", " (Config file not found: nowhere/config.json)"),
        ("ftp:elsewhere", None),
    ],
)
def test_an_unknown_model(name: str, reason: str | None) -> None:
    told = message(lambda: build_model(f"timm/{name}", None, seed=0))
    expected = (
        "expected timm/NAME, timm/hf-hub:ORG/NAME or timm/local-dir:PATH, which timm has; found"
        f" timm/{name}"
    )
    assert told.startswith(expected) and "\n" not in told
    if reason is not None:
        assert told == f"{expected}{reason}; see timm.list_models(pretrained=True)"


def test_weights_with_a_name_that_timm_does_not_have() -> None:
    assert message(lambda: build_model("timm/test_vit", "IMAGENET1K_V1", seed=0)) == (
        "expected pretrained, none or a file as weights of timm/test_vit; found IMAGENET1K_V1;"
        " give the path of a state dict"
    )


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    assert message(lambda: build_model("timm/test_vit", None, seed=0)) == (
        "expected a network to download the weights of timm/test_vit, for 160 pixels; found none"
        " (no network at all); download them elsewhere and give the file's path as weights"
    )


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    told = message(lambda: build_model("timm/test_vit", "none", seed=0))
    assert told.startswith("expected the package timm for a model timm/NAME; found none (")
    assert told.endswith("; pip install 'kdcache[timm]'")


def test_a_callable_says_whether_its_weights_were_learned() -> None:
    assert begins_pretrained("tiny_models:learned", "none")
    assert build_model("tiny_models:learned", None, seed=0).pretrained
    assert not begins_pretrained("tiny_models:tiny_cnn", "none")
    assert begins_pretrained("tiny_models:tiny_cnn", "weights.pth")
    assert not begins_pretrained("timm/test_vit", "none")
    assert begins_pretrained("timm/test_vit", "pretrained")
