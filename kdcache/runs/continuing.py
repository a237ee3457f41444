"""What a run's folder holds already, and what that means for the run that is asked for.

It is to begin, to be resumed, to be extended to more epochs, or is finished.
"""

from collections.abc import Callable
from pathlib import Path

from kdcache.config import Role, TrainOptions, agreed, flag_of
from kdcache.errors import DataError, OptionError
from kdcache.runs.folder import CONFIG_FILE, read_config, read_summary, refuse_edited_config
from kdcache.runs.records import RunConfig, RunSummary

Resolve = Callable[[TrainOptions], TrainOptions]
"""Fills in the defaults that follow from cache, images and device."""

_COMPARED = (Role.DATA, Role.RECIPE, Role.SEED)


def resumed_options(folder: Path, **code: str | None) -> TrainOptions:
    """The options with which the run in a folder is resumed: its own.

    Args:
        code: code of the user's own must be named again, as in `loss="my_losses:l1"`.

    Raises DataError where there is no run, or a finished one's config.json was edited; OptionError
    where the run names other code than `code`.
    """
    config = read_config(folder)
    if config is None:
        raise DataError(
            "the folder of a run",
            f"{folder} without {CONFIG_FILE}",
            "give the --out of an interrupted run",
        )
    refuse_edited_config(folder, read_summary(folder))
    own = config.options.used_only()
    for name in TrainOptions.names_of_code():
        _agree(folder, name, getattr(own, name), code.get(name))
    return own.without_start().replace(out=folder)


def extended_options(asked: TrainOptions) -> TrainOptions:
    """What --extend leaves to its defaults, as the run in `asked.out` has it.

    Some defaults depend on the number of epochs.

    Raises OptionError where there is no run.
    """
    held = read_config(asked.out)
    if held is None:
        remedy = "omit --extend, or correct --out"
        raise OptionError("a finished run in --out for --extend", f"none in {asked.out}", remedy)
    own = {
        name: getattr(held.options, name)
        for name in TrainOptions.names(*_COMPARED)
        if getattr(asked, name) in (None, "auto")
    }
    for name in own.keys() & set(TrainOptions.names_of_code()):
        _agree(asked.out, name, own[name], None)
    return asked.replace(**own)


def _agree(folder: Path, name: str, recorded: str | None, given: str | None) -> None:
    """Raise OptionError where the run in a folder names code that the user does not."""
    if recorded is not None or given is not None:
        agreed(str(recorded), given, flag_of(name), folder / CONFIG_FILE)


def finished_summary(
    asked: TrainOptions, held: RunConfig, now: RunConfig, resolve: Resolve
) -> RunSummary | None:
    """The summary of the run that is asked for, where its folder holds it, finished.

    None where there is something to train. Nothing is written.

    Args:
        asked: the options as given.
        held: what the folder holds.
        now: what would be recorded of the run that is asked for.

    Raises OptionError where the folder holds a run of other options, and DataError where it was
    trained from another cache or other images, or cannot be resumed here.
    """
    summary = read_summary(asked.out)
    refuse_edited_config(asked.out, summary)
    extends = asked.extend and held.options.epochs < now.options.epochs
    check_same_inputs(asked.out, held, now, to_train=summary is None or extends)
    theirs = held.options.used_only()
    if extends:
        theirs = theirs.replace(epochs=now.options.epochs)
    names = set(TrainOptions.names(*_COMPARED))
    if held.device_type != now.device_type:
        names.discard("precision")  # its default depends on the device
    differing = _differing(theirs, now.options, names, skipped=(None, "auto"))
    differing = differing or _differing(resolve(theirs), now.options, names)
    if differing:
        remedy = "give another --out, or --overwrite to replace the run"
        if set(differing) == {"epochs"} and theirs.epochs < now.options.epochs:
            remedy += ", or --extend to train it further"
        raise OptionError(
            f"the options of the run in {asked.out}",
            ", ".join(f"{flag_of(name)} {found}" for name, found in differing.items()),
            remedy,
        )
    return None if extends else summary


def check_same_inputs(folder: Path, held: RunConfig, now: RunConfig, *, to_train: bool) -> None:
    """Raise DataError where a run was begun with another cache or other images.

    Where it is to be trained, the software and the kind of device must be the same, too.
    """
    faults = held.differences(now, to_train=to_train)
    if faults:
        more = ", software and kind of device" if to_train else " and images"
        images = ", images" if to_train else ""
        raise DataError(
            f"the cache{images}{more} with which {folder} was begun",
            "; ".join(faults),
            "give another --out, or --overwrite to train anew",
        )


def _differing(
    theirs: TrainOptions, ours: TrainOptions, names: set[str], skipped: tuple[object, ...] = ()
) -> dict[str, str]:
    """In which options two runs differ, as 'OURS (the run has THEIRS)' by name."""
    found = {}
    for name in TrainOptions.names(*_COMPARED):
        one, other = getattr(theirs, name), getattr(ours, name)
        if name in names and one not in skipped and one != other:
            found[name] = f"{_words(other)} (the run has {_words(one)})"
    return found


def _words(value: object) -> str:
    return "its default" if value is None else f"{value}"
