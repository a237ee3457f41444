"""Options: ranges, the way through JSON, and the command lines made from them."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from kdcache.cli import main
from kdcache.cli.console import exit_code
from kdcache.cli.parser import parse_options
from kdcache.config import (
    AT_LEAST_1,
    LOSSES,
    POSITIVE,
    PROJECTIONS,
    VIEW_POLICIES,
    Group,
    Options,
    PrecomputeOptions,
    Range,
    Role,
    TrainOptions,
    flag_of,
)
from kdcache.errors import KdcacheError, OptionError

PHASES = (PrecomputeOptions, TrainOptions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"temperature": 0.0},
            "expected --temperature to be above 0; found --temperature 0.0; correct the option",
        ),
        (
            {"temperature": float("nan")},
            "expected --temperature to be above 0; found --temperature nan; correct the option",
        ),
        (
            {"lr": 10**400},  # a file may hold it; it is too large for a float
            f"expected --lr to be above 0; found --lr {10**400}; correct the option",
        ),
        ({"alpha": 1.5}, "expected --alpha to be 0 to 1; found --alpha 1.5; correct the option"),
        ({"epochs": 0}, "expected --epochs to be at least 1; found --epochs 0; correct the option"),
        (
            {"seed": -1},
            "expected --seed to be 0 to 4294967295; found --seed -1; correct the option",
        ),
        (
            {"image_size": 0},
            "expected --image-size to be 1 to 4096; found --image-size 0; correct the option",
        ),
        (
            {"optimizer": "lion"},
            "expected --optimizer to be one of sgd, adamw;"
            " found --optimizer lion; correct the option",
        ),
        (
            {"mean": (0.5, 0.5)},
            "expected --mean to be three numbers R,G,B; found --mean 0.5,0.5; correct the option",
        ),
        (
            {"std": (1.0, 0.0, 1.0)},
            "expected --std to be above 0; found --std 1.0,0.0,1.0; correct the option",
        ),
        (
            {"lr": -0.5, "dataset": "mnist"},
            "expected --dataset to be one of cifar10, cifar100, folder, shapes, shapes-fine, or"
            " package.module:name and --lr to be above 0;"
            " found --dataset mnist and --lr -0.5; correct the options",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_value_out_of_range_names_its_flag_and_all_faults_are_told_at_once(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(KdcacheError) as error:
        TrainOptions(**change)
    assert str(error.value) == message


def test_views_are_1_to_1000() -> None:
    assert PrecomputeOptions(views=1000, augment="flip").views == 1000
    with pytest.raises(
        KdcacheError,
        match=r"expected --views to be 1 to 1000; found --views 1001; correct the option",
    ):
        PrecomputeOptions(views=1001, augment="flip")


@pytest.mark.parametrize(
    ("within", "inside", "outside", "words"),
    [
        (POSITIVE, (1e-9, 1e9), (0, -1), "above 0"),
        (AT_LEAST_1, (1, 2), (0, 0.5), "at least 1"),
        (Range(0, 1), (0, 1), (-0.1, 1.1), "0 to 1"),
        (Range(0, 1, low_excluded=True), (0.1, 1), (0, 1.1), "above 0 to 1"),
    ],
    ids=str,
)
def test_ranges(
    within: Range, inside: tuple[float, ...], outside: tuple[float, ...], words: str
) -> None:
    assert all(number in within for number in inside) and not any(
        number in within for number in outside
    )
    assert str(within) == words


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions(cache=(Path("a.h5"), Path("b.h5")), teacher_weight=(0.75, 0.25)),
        TrainOptions(
            cache=Path("a/b.h5"),
            mean=(0.1, 0.2, 0.3),
            lr=0.5,
            vis=True,
            limit=7,
        ),
        PrecomputeOptions(),
        PrecomputeOptions(
            std=(1.0, 2.0, 3.0), teacher="m:f", views=8, augment="flip", restart=True, batch_size=3
        ),
    ],
    ids=lambda options: type(options).__name__,
)
def test_options_survive_json(options: TrainOptions) -> None:
    back = type(options).from_dict(json.loads(json.dumps(options.as_dict())))
    assert back == options
    assert [type(value) for value in vars(back).values()] == [
        type(value) for value in vars(options).values()
    ]


def test_replace_checks_again() -> None:
    assert TrainOptions().replace(alpha=0.5).alpha == 0.5
    with pytest.raises(KdcacheError, match="--alpha 2"):
        TrainOptions().replace(alpha=2)


@pytest.mark.parametrize("kind", PHASES)
def test_every_option_is_documented(kind: type) -> None:
    for item in dataclasses.fields(kind):
        spec = item.metadata["spec"]
        assert len(spec.help) > 8, item.name
        assert not isinstance(item.default, str) or spec.accepts(item.default), item.name


@pytest.mark.parametrize("kind", PHASES)
def test_help_names_every_flag_and_choice(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(kind, ["--help"], "What it does.")
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "What it does." in shown
    for item in dataclasses.fields(kind):
        assert "--" + item.name.replace("_", "-") in shown
        spec = item.metadata["spec"]
        assert all(choice in shown for choice in (*spec.choices, *(spec.registry or ())))


@pytest.mark.parametrize("command", ["precompute", "train"])
def test_help_is_in_groups_and_ends_with_what_people_change_first(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"precompute": PrecomputeOptions, "train": TrainOptions}[command]
    with pytest.raises(SystemExit):
        main.main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: kdcache {command} [options]\n")
    titles = [kind.model if group is Group.MODEL else group.value for group in Group]
    if command == "precompute":
        titles = ["data", "teacher", "output", "runtime"]
    found = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    last = "example" if len(kind.examples) == 1 else "examples"
    assert found == ["options", *titles, "change these first", last]
    for item in dataclasses.fields(kind):
        group = item.metadata["spec"].group
        title = kind.model if group is Group.MODEL else group.value
        under = shown.split(f"\n{title}:\n")[1].split("\n\n")[0]
        assert f"  {flag_of(item.name)}" in under
    closing = shown.split("change these first:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in closing.splitlines()] == [
        flag_of(name) for name in kind.first
    ]
    assert len(kind.first) == 5
    assert max(map(len, shown.split("\nexample")[0].splitlines())) < 80
    examples = shown.split(last + ":\n")[1].splitlines()
    for line in examples:
        assert line.split()[:2] == ["kdcache", command]
        parse_options(kind, line.split()[2:], None)


def test_a_command_line_becomes_typed_options() -> None:
    line = (
        "--cache c.h5 --mean 0.5,0.25,1 --alpha 1 --epochs 3 --image-size 64 --vis --student m:f"
        " --weight-decay 0"
    )
    argv = line.split()
    assert parse_options(TrainOptions, argv, None) == TrainOptions(
        cache=Path("c.h5"),
        mean=(0.5, 0.25, 1.0),
        alpha=1.0,
        epochs=3,
        image_size=64,
        vis=True,
        student="m:f",
        weight_decay=0.0,
    )
    assert parse_options(TrainOptions, [], None) == TrainOptions()


def test_without_arguments_the_process_command_line_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["train_student.py", "--epochs", "7"])
    assert parse_options(TrainOptions, None, None).epochs == 7


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--mean", "a,b,c"], "argument --mean: invalid rgb value: 'a,b,c'"),
        (["--tempature", "4"], "unrecognized arguments: --tempature 4"),
        (["--alpha"], "argument --alpha: expected one argument"),
    ],
)
def test_a_line_that_cannot_be_read_exits_with_2_and_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(TrainOptions, argv, None)
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.count("\n") == 1 and words in shown and shown.endswith("--help\n")


def test_an_unknown_choice_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: parse_options(PrecomputeOptions, ["--augment", "mixup"], None)) == 2
    shown = capsys.readouterr().err
    assert shown == (
        f"error: expected --augment to be one of {', '.join(VIEW_POLICIES)},"
        " or package.module:name;"
        " found --augment mixup; correct the option\n"
    )


@pytest.mark.parametrize("augment", [*VIEW_POLICIES, "mine:tilted"])
def test_a_policy_is_a_choice_of_both_phases(augment: str) -> None:
    views = 1 if augment == "none" else 2
    assert PrecomputeOptions(augment=augment, views=views).augment == augment
    assert TrainOptions(augment=augment).augment == augment


@pytest.mark.parametrize("name", [*LOSSES, "mine:loss"])
def test_a_loss_is_a_choice(name: str) -> None:
    assert TrainOptions(loss=name).loss == name


@pytest.mark.parametrize("name", [*PROJECTIONS, "mine:Projection"])
def test_a_projection_is_a_choice(name: str) -> None:
    assert TrainOptions(projection=name).projection == name


@pytest.mark.parametrize("phase", PHASES)
def test_every_option_has_one_role(phase: type[TrainOptions]) -> None:
    by_role = [phase.names(role) for role in Role]
    named = [name for names in by_role for name in names]
    assert sorted(named) == sorted(item.name for item in dataclasses.fields(phase))
    assert phase.names(*Role) == tuple(item.name for item in dataclasses.fields(phase))


def test_options_that_a_later_version_added_are_left_out() -> None:
    values = TrainOptions(alpha=0.5).as_dict() | {"unheard_of": 3}
    assert TrainOptions.from_dict(values) == TrainOptions(alpha=0.5)


def test_an_input_error_is_one_line() -> None:
    error = KdcacheError("a\n  b", "c", "do d")
    assert str(error) == "expected a b; found c; do d"
    assert (error.expected, error.found, error.remedy) == ("a\n  b", "c", "do d")


@pytest.mark.parametrize(("views", "augment"), [(1, "flip"), (4, "none")])
def test_views_and_augment_go_together(views: int, augment: str) -> None:
    with pytest.raises(KdcacheError) as error:
        PrecomputeOptions(views=views, augment=augment)
    assert str(error.value) == (
        "expected --views above 1 and an --augment other than none together;"
        f" found --views {views} --augment {augment}; give both or neither"
    )


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions(
            cache=Path("my caches/b.h5"),
            mean=(-0.1, 0.2, 0.3),
            std=(1.0, 2.5, 1e-7),
            vis=True,
            alpha=0.0,
            lr=0.1,
        ),
        TrainOptions(label_weight=0.1, distill_weight=9.0),
        TrainOptions(cache=(Path("a b.h5"), Path("c.h5")), teacher_weight=(0.75, 0.25)),
        TrainOptions(
            student="it's:odd", out=Path("--out"), student_weights="$HOME", limit=7, warmup=1 / 3
        ),
        PrecomputeOptions(views=8, augment="flip", restart=True, image_size=32, seed=2**32 - 1),
    ],
    ids=lambda options: type(options).__name__,
)
def test_options_survive_a_shell(options: TrainOptions) -> None:
    words = shlex.split(options.command_line())
    assert words[:2] == ["python", options.script]
    assert parse_options(type(options), words[2:], None) == options


def test_a_command_line_holds_what_differs_from_the_defaults() -> None:
    assert PrecomputeOptions().command_line() == "python precompute_teacher.py"
    options = TrainOptions(cache=Path("x y.h5"), small_stem=True, temperature=4.0)
    assert (
        options.command_line()
        == "python train_student.py --cache 'x y.h5' --temperature 4.0 --small-stem"
    )


class TestOptionsThatDoNothing:
    """They are refused in one line, and nothing is begun."""

    CASES = (
        (TrainOptions, "--cache t.h5 --limit 100", "--limit 100 only without --cache"),
        (TrainOptions, "--cache t.h5 --split-seed 1", "--split-seed 1 only without --cache"),
        (TrainOptions, "--cache t.h5 --store-size 64", "--store-size 64 only without --cache"),
        (TrainOptions, "--alpha 0 --store-size 64", "only with --dataset folder or one of your"),
        (PrecomputeOptions, "--dataset shapes --store-size 64", "only with --dataset folder or"),
        (TrainOptions, "--alpha 0 --skip-checksums", "--skip-checksums only with --cache"),
        (TrainOptions, "--alpha 0 --projection probe", "--projection probe only with --cache"),
        (TrainOptions, "--alpha 0 --labels teacher", "--labels teacher only with --cache"),
        (TrainOptions, "--alpha 0 --augment cached", "--augment cached only with --cache"),
        (TrainOptions, "--alpha 0 --views 2", "--views 2 only with --cache"),
        (TrainOptions, "--cache t.h5 --alpha 0 --views 2", "--views 2 only with --augment cached"),
        (TrainOptions, "--cache t.h5 --alpha 0 --live-teacher", "only with --alpha above 0"),
        (TrainOptions, "--alpha 0 --live-teacher", "--live-teacher only with --cache"),
        (TrainOptions, "--cache t.h5 --alpha 0 --loss dist", "--loss dist only with --alpha above"),
        (TrainOptions, "--alpha 0 --temperature 2", "--temperature 2.0 only with --alpha above 0"),
        (TrainOptions, "--cache t.h5 --loss mse --temperature 3", "a loss that has a temperature"),
        (TrainOptions, "--cache t.h5 --alpha 1 --label-smoothing 0.1", "with --alpha below 1"),
        (TrainOptions, "--cache t.h5 --alpha 0 --distill-warmup 0.1", "with --alpha above 0"),
        (
            TrainOptions,
            "--cache t.h5 --alpha 0.5 --label-weight 0.1 --distill-weight 9",
            "expected --alpha 0.5 only without --label-weight and --distill-weight;"
            " found --label-weight 0.1 --distill-weight 9; omit --alpha",
        ),
        (TrainOptions, "--label-weight 1", "--label-weight 1.0 only with --distill-weight"),
        (TrainOptions, "--distill-weight 9", "--distill-weight 9.0 only with --label-weight"),
        (TrainOptions, "--cache t.h5 --combine logits", "only with several --cache; found fewer"),
        (TrainOptions, "--teacher-weight 0.7 0.3", "only with several --cache"),
        (TrainOptions, "--cache t.h5 --teacher my:net", "only with --live-teacher"),
        (TrainOptions, "--cache t.h5 --teacher-weights w.pt", "only with --live-teacher"),
        (TrainOptions, "--alpha 0 --extend --overwrite", "--extend only without --overwrite"),
    )

    @pytest.mark.parametrize(("kind", "line", "message"), CASES, ids=[case[1] for case in CASES])
    def test_it_is_refused(self, kind: type[Options], line: str, message: str) -> None:
        with pytest.raises(OptionError) as error:
            parse_options(kind, line.split(), None)
        assert message in str(error.value) and "; omit --" in str(error.value)

    def test_every_option_that_needs_something_is_among_them(self) -> None:
        for kind in PHASES:
            for item in dataclasses.fields(kind):
                lines = [line for one, line, _ in self.CASES if one is kind]
                flag = flag_of(item.name)
                if item.metadata["spec"].needs and kind is TrainOptions:
                    assert any(flag in line.split() for line in lines), flag

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            (TrainOptions, "--alpha 0 --dataset folder --limit 100 --store-size 64"),
            (TrainOptions, "--alpha 0 --dataset my.own:reader --store-size 64"),
            (PrecomputeOptions, "--dataset folder --limit 100 --split-seed 1 --store-size 64"),
            (TrainOptions, "--cache t.h5 --alpha 0 --augment cached --views 2"),
            (TrainOptions, "--cache t.h5 --live-teacher --teacher-weights w.pt --views 2"),
            (TrainOptions, "--cache t.h5 --loss dist --temperature 3 --skip-checksums"),
            (TrainOptions, "--alpha 0 --augment flip --labels dataset --label-smoothing 0.1"),
        ],
    )
    def test_where_it_does_something_it_is_not(self, kind: type[Options], line: str) -> None:
        options = parse_options(kind, line.split(), None)
        assert options.used_only() == options

    def test_all_are_told_at_once(self) -> None:
        options = TrainOptions(cache=Path("t.h5"), limit=9, split_seed=1, alpha=0.0, loss="dist")
        with pytest.raises(OptionError) as error:
            options.check_used(["limit", "split_seed", "loss", "alpha"])
        assert str(error.value) == (
            "expected --limit 9, --split-seed 1 only without --cache, whose images are chosen"
            " already; --loss dist only with --alpha above 0; found --cache t.h5, --alpha 0;"
            " omit --limit, --split-seed, --loss"
        )

    def test_left_out_one_may_make_another_idle(self) -> None:
        options = TrainOptions(
            cache=Path("t.h5"), alpha=0.0, live_teacher=True, teacher_weights="w.pt", epochs=3
        )
        assert options.used_only() == TrainOptions(cache=Path("t.h5"), alpha=0.0, epochs=3)
