"""Weights from a file and by name: what fits is loaded, and nothing is ever executed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from tiny_weights import TINY, message, outputs, same, saved, tiny_state
from torch import Tensor, nn

from kdcache.models.build import build_model
from kdcache.models.preprocessing import IMAGENET_MEAN, Preprocessing
from kdcache.models.state_dicts import read_state_dict, state_digest
from kdcache.models.student_card import StudentCard
from kdcache.models.weights import load_weights


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    return build_model("resnet18", "none", seed=0, classes=7, small_stem=True).module.state_dict()


class TestWeightsFromAFile:
    def test_they_are_loaded_whatever_the_seed(self, tmp_path: Path) -> None:
        state = tiny_state()
        built = build_model(TINY, saved(tmp_path / "w.pt", state), seed=9)
        assert same(built.module.state_dict(), state) and built.pretrained

    @pytest.mark.parametrize("wrapper", ["state_dict", "model"])
    def test_wrappers_and_the_prefix_of_parallel_training_are_taken_off(
        self, wrapper: str, tmp_path: Path
    ) -> None:
        state = tiny_state()
        wrapped = {wrapper: {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
        assert same(read_state_dict(Path(saved(tmp_path / "w.pt", wrapped))), state)

    def test_another_number_of_classes_gets_a_new_head_on_the_old_body(
        self, tmp_path: Path
    ) -> None:
        state = tiny_state()
        module = build_model(TINY, saved(tmp_path / "w.pt", state), seed=9, classes=4).module
        assert outputs(module, 16) == 4
        assert all(
            torch.equal(module.state_dict()[key], state[key])
            for key in state
            if not key.startswith("5.")
        )

    def test_classes_and_small_stem_are_read_off_the_state_dict(
        self, resnet_state: dict[str, Tensor], tmp_path: Path
    ) -> None:
        module = build_model("resnet18", saved(tmp_path / "w.pt", resnet_state), seed=1).module
        assert same(module.state_dict(), resnet_state)
        assert outputs(module, 32) == 7 and isinstance(module.maxpool, nn.Identity)

    def test_a_callable_takes_the_classes_of_its_weights(self, tmp_path: Path) -> None:
        state = {key: value.half() for key, value in tiny_state(20).items()}
        built = build_model(TINY, saved(tmp_path / "w.pt", state), seed=1).module.state_dict()
        assert built["5.weight"].shape == (20, 128) and built["5.weight"].dtype == torch.float32
        assert all(torch.equal(built[key], state[key].float()) for key in state)

    def test_a_small_stem_over_7_by_7_weights_starts_afresh(self, tmp_path: Path) -> None:
        state = build_model("resnet18", "none", seed=0, classes=3).module.state_dict()
        given = build_model(
            "resnet18", saved(tmp_path / "w.pt", state), seed=1, small_stem=True
        ).module.state_dict()
        assert given["conv1.weight"].shape == (64, 3, 3, 3)
        assert all(torch.equal(given[key], state[key]) for key in state if key != "conv1.weight")

    def test_a_transformers_positions_are_stretched_to_another_image_size(
        self, tiny_vit: str, tmp_path: Path
    ) -> None:
        state = build_model(tiny_vit, "none", seed=0, classes=6, image_size=32).module.state_dict()
        state["encoder.pos_embedding"] = torch.arange(5.0)[None, :, None].expand(1, 5, 8).clone()
        built = build_model(tiny_vit, saved(tmp_path / "w.pt", state), seed=0, image_size=64)
        positions = built.module.state_dict()["encoder.pos_embedding"]
        assert built.preprocessing.image_size == 64 and outputs(built.module, 64) == 6
        # 2 x 2 patches become 4 x 4, corners on corners (torchvision's bicubic aligns them); the
        # class token stays
        assert positions.shape == (1, 17, 8)
        assert positions[0, [0, 1, 4, 13, 16], 0].tolist() == pytest.approx(
            [0, 1, 2, 3, 4], abs=1e-5
        )

    def test_positions_that_cannot_be_stretched_are_named(
        self, tiny_vit: str, tmp_path: Path
    ) -> None:
        state = build_model(tiny_vit, "none", seed=0, classes=6, image_size=32).module.state_dict()
        state["encoder.pos_embedding"] = torch.zeros(1, 4, 8)
        weights = saved(tmp_path / "w.pt", state)
        told = message(lambda: build_model(tiny_vit, weights, seed=0, image_size=64))
        assert "; found encoder.pos_embedding (1, 4, 8) for (1, 17, 8); give weights" in told

    def test_small_kernels_of_other_channels_do_not_start_afresh(self, tmp_path: Path) -> None:
        state = build_model("resnet18", "none", seed=0, small_stem=True).module.state_dict()
        state["conv1.weight"] = torch.zeros(64, 1, 3, 3)
        weights = saved(tmp_path / "w.pt", state)
        told = message(lambda: build_model("resnet18", weights, seed=1))
        assert "; found conv1.weight (64, 1, 3, 3) for (64, 3, 3, 3); give weights" in told

    def test_what_a_run_wrote_beside_its_student_is_used(self, tmp_path: Path) -> None:
        known = Preprocessing(40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b"))
        card = StudentCard(known, "tiny")
        (tmp_path / "student.json").write_text(json.dumps(card.to_json()))
        built = build_model(TINY, saved(tmp_path / "student.pt", tiny_state()), seed=0)
        assert built.preprocessing == known
        assert json.loads((tmp_path / "student.json").read_text())["model"] == "tiny"

    @pytest.mark.parametrize(
        "text", ["", "{", "{}", "[]", '{"image_size": 3, "mean": 1, "std": 2, "class_names": []}']
    )
    def test_a_damaged_card_is_named(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "student.json").write_text(text)
        weights = saved(tmp_path / "student.pt", tiny_state())
        told = message(lambda: build_model(TINY, weights, seed=0))
        assert told.startswith(
            f"expected {tmp_path}/student.json as train_student.py writes it; found "
        )
        assert told.endswith("; repair it or train anew")

    def test_weights_that_do_not_fit_name_the_keys(self, tmp_path: Path) -> None:
        state = tiny_state()
        state["0.weight"] = state["0.weight"][:4]
        state["extra"] = state.pop("5.bias")
        weights = saved(tmp_path / "w.pt", state)
        assert message(lambda: build_model(TINY, weights, seed=0)) == (
            f"expected weights that fit {TINY} from {weights};"
            " found 0.weight (4, 3, 3, 3) for (8, 3, 3, 3), missing 5.bias, unknown extra;"
            " give weights of this model"
        )

    def test_many_faults_are_counted(self, tmp_path: Path) -> None:
        weights = saved(tmp_path / "w.pt", {f"a{number}": torch.zeros(1) for number in range(3)})
        # 9 tensors of tiny_cnn are missing and 3 unknown: 4 are named
        assert " and 8 more; give weights of this model" in message(
            lambda: build_model(TINY, weights, seed=0)
        )

    def test_a_pickle_with_code_is_refused_and_not_executed(self, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
                return os.mkdir, (str(tmp_path / "executed"),)

        weights = saved(tmp_path / "w.pt", {"0.weight": Payload()})
        assert message(lambda: build_model(TINY, weights, seed=0)) == (
            "expected a state dict saved by torch.save;"
            f" found {weights}, which is not one; give another file"
        )
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        "content", [b"", b"PK\x03\x04", bytes(100), b"text"], ids=["empty", "zip", "zeros", "text"]
    )
    def test_a_file_that_is_no_state_dict(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "w.pt").write_bytes(content)
        assert message(lambda: read_state_dict(tmp_path / "w.pt")) == (
            "expected a state dict saved by torch.save;"
            f" found {tmp_path}/w.pt, which is not one; give another file"
        )

    @pytest.mark.parametrize(
        "content", [[1, 2], {"a": 1}, torch.zeros(3), {"state_dict": {"a": "b"}}], ids=str
    )
    def test_a_saved_object_that_is_no_state_dict(self, content: object, tmp_path: Path) -> None:
        path = Path(saved(tmp_path / "w.pt", content))
        assert message(lambda: read_state_dict(path)) == (
            "expected a state dict saved by torch.save;"
            f" found {path} with something else; give another file"
        )


class TestWeightsByName:
    URLS = "torchvision.models._api.load_state_dict_from_url"

    def test_torchvisions_weights_bring_their_preprocessing_and_classes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = torchvision.models.squeezenet1_1().state_dict()
        monkeypatch.setattr(self.URLS, lambda url, **named: dict(state))
        built = build_model("squeezenet1_1", None, seed=0)
        assert same(built.module.state_dict(), state)
        assert (built.weights, built.pretrained) == ("IMAGENET1K_V1", True)
        assert built.preprocessing.image_size == 224 and built.preprocessing.mean == IMAGENET_MEAN
        assert (
            len(built.preprocessing.class_names) == 1000
            and built.preprocessing.class_names[0] == "tench"
        )

    def test_the_hash_in_the_files_name_is_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, object] = {}
        monkeypatch.setattr(self.URLS, lambda url, **named: asked.update(named) or {})
        load_weights("resnet18", "IMAGENET1K_V1")
        assert asked["check_hash"] is True

    @pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
    def test_without_a_network_the_address_is_told(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(url: str, **named: object) -> None:
            raise error

        monkeypatch.setattr(self.URLS, refuse)
        assert message(lambda: build_model("resnet18", None, seed=0)) == (
            f"expected a network to download resnet18 IMAGENET1K_V1; found none ({error});"
            " download https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere and"
            " give the file's path as weights"
        )

    def test_an_unknown_name_lists_the_known_ones(self) -> None:
        assert message(lambda: build_model("resnet50", "IMAGENET1K_V3", seed=0)) == (
            "expected weights of resnet50: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, none or a file;"
            " found IMAGENET1K_V3; correct the name or path"
        )

    def test_a_callable_has_no_named_weights(self) -> None:
        assert message(lambda: build_model(TINY, "IMAGENET1K_V1", seed=0)) == (
            f"expected none or a file as weights of {TINY}; found IMAGENET1K_V1;"
            " give the path of a state dict"
        )


def test_state_digest_depends_on_each_tensor_and_name() -> None:
    module = build_model(TINY, None, seed=0).module
    digests = {state_digest(module)}
    for value in module.state_dict().values():
        kept = value.clone()
        value.view(-1)[-1] += 1
        digests.add(state_digest(module))
        value.copy_(kept)
    assert len(digests) == 1 + len(module.state_dict())
    assert state_digest(module) in digests
    assert state_digest(nn.Sequential(module)) not in digests


def test_state_digest_by_hand() -> None:
    module = nn.Linear(1, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        module.bias.zero_()
    raw = (
        b"bias torch.float32 (2,)\n"
        + bytes(8)
        + b"weight torch.float32 (2, 1)\n"
        + b"\0\0\x80\x3f\0\0\0\xc0"
    )
    assert state_digest(module) == hashlib.sha256(raw).hexdigest()


def test_a_regnet_takes_its_weights(tmp_path: Path) -> None:
    """torchvision cannot build one without memory, which finding the head's classes once needed."""
    state = torchvision.models.regnet_y_400mf(num_classes=3).state_dict()
    path = saved(tmp_path / "weights.pth", state)
    assert same(build_model("regnet_y_400mf", path, seed=0).module.state_dict(), state)
