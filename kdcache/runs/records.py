"""What a run records, as types: its configuration, each epoch, and its summary.

Every record has one `from_json`, which names the field that is wrong, ignores fields that a later
version added, and takes None for those that an older version did not write.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from kdcache.config import Role, TrainOptions
from kdcache.errors import OptionError
from kdcache.runtime import JsonObject


@dataclass(frozen=True)
class RunConfig:
    """config.json: what a run was begun with.

    Args:
        options: with all defaults filled in.
        fingerprint: of the cache; None for labels only.
        images: SHA-256 of the training images, where no fingerprint speaks for them.
        software: versions, in one line.
        device_type: cpu, cuda or mps; None where an older version did not record it.
        command: the command line, as it was given.
        content_digest: of the cache; None where an older version did not record it.
    """

    options: TrainOptions
    fingerprint: str | None = None
    images: str | None = None
    software: str | None = None
    device_type: str | None = None
    command: str | None = None
    content_digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return document | {"options": self.options.as_dict()}

    def differences(self, other: RunConfig, *, to_train: bool = True) -> list[str]:
        """What keeps a run from going on under another one, as 'images: one and other'.

        Software and device do not matter where nothing is to be trained.
        """
        found = []
        inputs = ("fingerprint", "images")
        for key in (*inputs, "software", "device_type") if to_train else inputs:
            one, now = getattr(self, key), getattr(other, key)
            if key == "software":
                one, now = _without_kdcache(one), _without_kdcache(now)
            if one != now:
                found.append(f"{key}: {one} and {now}")
        if not found and not self.same_content(other.content_digest):
            found.append(f"the cache's content: {self.content_digest} and {other.content_digest}")
        return found

    def edits(self, other: RunConfig) -> list[str]:
        """What another one says otherwise of what the run was begun with, as 'lr: one and other'.

        More epochs are an extension.
        """
        found = []
        one, now = self.options.used_only(), other.options.used_only()
        for name in TrainOptions.names(Role.DATA, Role.RECIPE, Role.SEED):
            before, after = getattr(one, name), getattr(now, name)
            extended = name == "epochs" and before < after
            if before not in (None, "auto", after) and not extended:
                found.append(f"{name}: {before} and {after}")
        return found

    def same_content(self, content_digest: str | None) -> bool:
        """Whether the cache may be one of this content; it may where either is not known."""
        known = self.content_digest is not None and content_digest is not None
        return not known or self.content_digest == content_digest

    @classmethod
    def from_json(cls, document: Any) -> RunConfig:
        """Raises ValueError, naming the field or the option."""
        entry = JsonObject(document)
        texts = ("fingerprint", "images", "software", "device_type", "command", "content_digest")
        known = {key: entry.text(key) for key in texts if key in entry}
        try:
            options = TrainOptions.from_dict(entry.mapping("options"))
        except OptionError as error:
            raise ValueError(f"options: expected {error.expected}, found {error.found}") from error
        except TypeError as error:  # text where a number is compared with its range
            raise ValueError(f"options: {error}") from error
        return cls(options, **known)


def _without_kdcache(software: str | None) -> str | None:
    """Versions in one line, without ours.

    Another kdcache may go on with a run, another torch may not.
    """
    if software is None:
        return None
    return ", ".join(one for one in software.split(", ") if not one.startswith("kdcache "))


@dataclass(frozen=True)
class EpochRecord:
    """A line of metrics.jsonl: the means over an epoch (1, 2, ...), and the validation behind it.

    Losses are in nats, accuracies and the agreement with the teacher fractions of 1; `agreement` is
    None without a teacher.
    """

    epoch: int
    validation_accuracy: float
    validation_loss: float | None = None
    lr: float | None = None
    train_loss: float | None = None
    label_loss: float | None = None
    distillation_loss: float | None = None
    train_accuracy: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what is None."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, document: Any) -> EpochRecord:
        """Raises ValueError, naming the field. A loss may be infinite or not a number."""
        entry = JsonObject(document)
        names = [item.name for item in dataclasses.fields(cls) if item.name != "epoch"]
        if "validation_accuracy" not in entry:
            raise ValueError("validation_accuracy: missing")
        numbers = {name: entry.number(name, finite=False) for name in names if name in entry}
        return cls(entry.integer("epoch", 1), **numbers)


@dataclass(frozen=True)
class TeacherScores:
    """How good the teacher was, in the student's classes; fractions of 1.

    Of an ensemble, `members` are the teachers.
    """

    name: str
    validation_accuracy: float | None
    test_accuracy: float | None
    members: tuple[TeacherScores, ...] | None = None

    @classmethod
    def from_json(cls, entry: JsonObject) -> TeacherScores:
        scores = (
            entry.number(key) if key in entry else None
            for key in ("validation_accuracy", "test_accuracy")
        )
        members = None
        if "members" in entry:
            members = tuple(map(cls.from_json, entry.objects("members")))
        return cls(entry.text("name"), *scores, members=members)


@dataclass(frozen=True)
class RunSummary:
    """summary.json: what a finished run reached. Accuracies are fractions of 1.

    `alpha` is the distillation term's share of both weights in the loss. `views` says whose views
    the student saw: matched (the cached ones), unmatched (its own), or live (the teacher ran in
    every step). The class accuracies are in the order of the classes, None for a class without
    images. `unlabelled` counts the images without labels that it learned from; None where there
    were none. `loss`, `projection` and `views` are None for labels only. `config_digest` and
    `history_digest` are the SHA-256 of config.json and metrics.jsonl when the run ended, None where
    an older version did not record them.
    """

    name: str
    student: str
    alpha: float
    validation_accuracy: float
    test_accuracy: float | None = None
    test_images: int | None = None
    parameters: int | None = None
    dataset: str | None = None
    labels: str | None = None
    unlabelled: int | None = None
    loss: str | None = None
    temperature: float | None = None
    projection: str | None = None
    views: str | None = None
    seed: int = 0
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    validation_digest: str | None = None
    test_digest: str | None = None
    validation_class_accuracy: list[float | None] | None = None
    test_class_accuracy: list[float | None] | None = None
    fingerprint: str | None = None
    config_digest: str | None = None
    history_digest: str | None = None
    teacher: TeacherScores | None = None

    @property
    def distilled(self) -> bool:
        """Whether a teacher had a part in the loss."""
        return self.alpha > 0

    @property
    def result(self) -> str:
        """The test accuracy, and the epoch whose weights have it, in words."""
        reached = "unknown" if self.test_accuracy is None else f"{self.test_accuracy:.2%}"
        return (
            f"{reached} test accuracy with the weights of epoch {self.best_epoch} of {self.epochs}"
        )

    def to_json(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        if self.teacher is not None and self.teacher.members is None:
            del document["teacher"]["members"]
        return document

    @classmethod
    def from_json(cls, document: Any) -> RunSummary:
        """Raises ValueError, naming the field."""
        entry = JsonObject(document)
        readers = {"str": entry.text, "int": entry.integer, "float": entry.number}
        readers["list[float | None]"] = entry.numbers_or_nulls
        values: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            kind = str(item.type).removesuffix(" | None")
            required = item.default is dataclasses.MISSING
            if kind in readers and (required or item.name in entry):
                values[item.name] = readers[kind](item.name)
        if "teacher" in entry:
            values["teacher"] = TeacherScores.from_json(entry.object("teacher"))
        return cls(**values)
