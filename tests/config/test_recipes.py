"""The loss's weights, and recipes: published settings behind what the user gives."""

from pathlib import Path

import pytest

from kdcache.cli.parser import parse_options
from kdcache.config import RECIPES, TrainOptions
from kdcache.errors import OptionError


def parsed(line: str, tmp_path: Path | None = None, toml: str = "") -> TrainOptions:
    words = line.split()
    if tmp_path is not None:
        (tmp_path / "options.toml").write_text(toml)
        words += ["--config", str(tmp_path / "options.toml")]
    return parse_options(TrainOptions, ["--cache", "t.h5", *words], None)


def test_alpha_is_the_short_form() -> None:
    assert TrainOptions(alpha=0.25).weights == (0.75, 0.25)
    assert TrainOptions(alpha=0.25).distillation_share == 0.25
    options = TrainOptions(label_weight=1.0, distill_weight=3.0)
    assert options.weights == (1.0, 3.0) and options.distillation_share == 0.75


@pytest.mark.parametrize(("weight", "distills"), [(0.0, False), (0.1, True)])
def test_who_distils(weight: float, distills: bool) -> None:
    assert TrainOptions(label_weight=1.0, distill_weight=weight).distills is distills


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError) as error:
        TrainOptions(label_weight=0.0, distill_weight=0.0)
    assert str(error.value) == (
        "expected --label-weight or --distill-weight above 0; found both 0; correct one of them"
    )


@pytest.mark.parametrize(
    ("name", "loss", "weights", "temperature"),
    [
        ("hinton", "kl", (pytest.approx(0.1), 0.9), 4),
        ("dkd", "dkd", (1, 1), 4),
        ("logit-standardization", "standardized-kl", (0.1, 9), 2),
        ("dist", "dist", (1, 2), 1),
        ("function-matching", "kl", (0, 1), 1),
    ],
)
def test_a_recipe_is_the_options_that_it_stands_for(
    name: str, loss: str, weights: tuple[float, float], temperature: float
) -> None:
    options = parsed(f"--recipe {name}")
    assert (
        options
        == TrainOptions(cache=Path("t.h5"), recipe=name)
        == TrainOptions(cache=Path("t.h5"), **RECIPES[name])
    )
    assert (options.loss, options.weights, options.temperature) == (loss, weights, temperature)
    assert options.recipe is None  # nor recorded: its values are


def test_there_are_no_others() -> None:
    with pytest.raises(OptionError, match=r"--recipe to be one of hinton, dkd, .*--recipe none"):
        parsed("--recipe none")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--temperature 2", {"alpha": 0.9, "temperature": 2.0}),  # its default, but given
        ("--alpha 0.5 --loss dist", {"alpha": 0.5, "temperature": 4.0, "loss": "dist"}),
        (
            "--label-weight 1 --distill-weight 2",
            {"label_weight": 1.0, "distill_weight": 2.0, "temperature": 4.0},
        ),
    ],
)
def test_an_option_beside_a_recipe_wins(line: str, expected: dict[str, object]) -> None:
    assert parsed(f"--recipe hinton {line}") == TrainOptions(cache=Path("t.h5"), **expected)


def test_alpha_beside_a_recipe_of_weights_wins() -> None:
    options = parsed("--recipe logit-standardization --alpha 0.3")
    assert options.weights == (0.7, 0.3) and options.loss == "standardized-kl"


def test_one_weight_beside_a_recipe_of_weights() -> None:
    assert parsed("--recipe logit-standardization --distill-weight 4").weights == (0.1, 4)


class TestFromAFile:
    def test_what_the_file_gives_beside_it_wins(self, tmp_path: Path) -> None:
        options = parsed("", tmp_path, 'recipe = "dist"\ntemperature = 4\n')
        assert options == TrainOptions(
            cache=Path("t.h5"), loss="dist", label_weight=1.0, distill_weight=2.0, temperature=4.0
        )

    def test_the_command_lines_recipe_is_in_front_of_the_file(self, tmp_path: Path) -> None:
        options = parsed("--recipe hinton", tmp_path, "label-weight = 1\ndistill-weight = 5\n")
        assert options == TrainOptions(cache=Path("t.h5"), recipe="hinton")

    def test_alpha_on_the_command_line_is_in_front_of_the_files_weights(
        self, tmp_path: Path
    ) -> None:
        options = parsed("--alpha 0.3", tmp_path, "label-weight = 1\ndistill-weight = 5\n")
        assert options == TrainOptions(cache=Path("t.h5"), alpha=0.3)
