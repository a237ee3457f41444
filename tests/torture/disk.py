"""A record of what was asked of a disk, and what the disk may hold when the power goes."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR = 512
FOLDER = -1  # the number of every folder


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Size:
    """A file's size becomes `size`, or at least that where it only reserves."""

    inode: int
    size: int
    reserves: bool


@dataclass(frozen=True)
class Name:
    """`path` comes to mean `inode`, or nothing.

    `source`, where it was renamed from, means nothing from then on.
    """

    path: str
    inode: int | None
    source: str | None = None


@dataclass(frozen=True)
class Sync:
    """Of a file's number or of a folder's path."""

    what: int | str


@dataclass(frozen=True)
class Finished:
    """Not for the disk: the writer has said that this block, or the whole cache (None), stays."""

    block: int | None


Operation = Write | Size | Name | Sync | Finished


@dataclass
class Disk:
    """Everything that was asked of one folder, in order. What lies in it at first is safe."""

    root: Path
    log: list[Operation] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    content: dict[int, bytearray] = field(default_factory=dict)
    opened: dict[int, int | str] = field(default_factory=dict)  # by file descriptor
    first: int = 0  # the first operation that can be lost

    def __post_init__(self) -> None:
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            self._new(name, FOLDER if path.is_dir() else None)
            self.log.append(Sync(os.path.dirname(name)))
            if path.is_file():
                self._catch_up(self.names[name], path)
                self.log.append(Sync(self.names[name]))
        self.first = len(self.log)

    def _new(self, name: str, inode: int | None = None) -> None:
        inode = len(self.content) if inode is None else inode
        self.content.setdefault(inode, bytearray())
        self.names[name] = inode
        self.log.append(Name(name, inode))

    def _name(self, path: str | Path) -> str:
        return str(Path(os.path.abspath(path)).relative_to(self.root))

    def _add(self, operation: Write | Size) -> None:
        apply(operation, self.content[operation.inode])
        self.log.append(operation)

    def _catch_up(self, inode: int, path: Path) -> None:
        """Record what came into the file by another way than through Python."""
        actual, known = path.read_bytes(), self.content[inode]
        if len(actual) != len(known):
            self._add(Size(inode, len(actual), reserves=False))
        for offset in range(0, len(actual), SECTOR):
            if actual[offset : offset + SECTOR] != known[offset : offset + SECTOR]:
                self._add(Write(inode, offset, actual[offset : offset + SECTOR]))

    def __call__(self, call: str, real: Callable[..., Any], *arguments: Any) -> Any:
        """For `hooked`: carry out a call and record it."""
        result = real(*arguments)
        match call, arguments:
            case "open", (path, *_) if not Path(os.path.abspath(path)).is_relative_to(self.root):
                self.opened[result] = ".."  # the folders above are not what is looked at
            case "open", (path, *_):
                name = self._name(path)
                if Path(path).is_dir():
                    self.opened[result] = "" if name == "." else name
                else:
                    if name not in self.names:
                        self._new(name)
                    self.opened[result] = self.names[name]
                    self._catch_up(self.names[name], Path(path))
            case "mkdir", (path, *_):
                self._new(self._name(path), FOLDER)
            case "pwrite", (fd, data, offset):
                self._add(Write(self.opened[fd], offset, bytes(data[:result])))
            case "write", (fd, data):
                offset = os.lseek(fd, 0, os.SEEK_CUR) - result
                self._add(Write(self.opened[fd], offset, bytes(data[:result])))
            case "posix_fallocate", (fd, offset, size):
                self._add(Size(self.opened[fd], offset + size, reserves=True))
            case "ftruncate", (fd, size):
                self._add(Size(self.opened[fd], size, reserves=False))
            case "fsync" | "fdatasync", (fd,):
                self.log.append(Sync(self.opened[fd]))
            case "rename" | "replace", (source, path):
                old, new = self._name(source), self._name(path)
                self.names[new] = self.names.pop(old)
                self.log.append(Name(new, self.names[new], old))
            case "unlink", (path, *_):
                name = self._name(path)
                del self.names[name]
                self.log.append(Name(name, None))
        return result


def apply(operation: Write | Size, content: bytearray) -> None:
    if isinstance(operation, Write):
        content.extend(bytes(max(0, operation.offset - len(content))))
        content[operation.offset : operation.offset + len(operation.data)] = operation.data
    else:
        content.extend(bytes(max(0, operation.size - len(content))))
        if not operation.reserves:
            del content[operation.size :]


def crash(log: list[Operation], cut: int, generator: random.Random) -> dict[str, bytes | None]:
    """What a folder may hold when the power goes before operation `cut`.

    Returns the content of each path, None for a folder.
    """
    keeping = generator.choice((0, 0.1, 0.5, 0.9, 1))
    tearing = generator.choice((0, 0, 0.5, 1))
    synced: set[int | str] = set()
    kept: list[Operation] = []
    for operation in reversed(log[:cut]):
        match operation:
            case Sync(what):
                synced.add(what)
            case Name(path):
                if os.path.dirname(path) in synced or generator.random() < keeping:
                    kept.append(operation)
            case Write(inode, offset, data) if inode not in synced and generator.random() < tearing:
                for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
                    if generator.random() < keeping:
                        first, last = max(0, start - offset), start + SECTOR - offset
                        kept.append(Write(inode, offset + first, data[first:last]))
            case Write(inode) | Size(inode):
                if inode in synced or generator.random() < keeping:
                    kept.append(operation)
    names: dict[str, int] = {}
    content: dict[int, bytearray] = {}
    for operation in reversed(kept):
        match operation:
            case Name(path, inode, source):
                names.pop(path, None)
                if source is not None and names.get(source) == inode:
                    del names[source]
                if inode is not None:
                    names[path] = inode
            case Write(inode) | Size(inode):
                apply(operation, content.setdefault(inode, bytearray()))
    return {
        path: None if names[path] == FOLDER else bytes(content.get(names[path], b""))
        for path in names
    }


def materialise(state: dict[str, bytes | None], root: Path) -> None:
    root.mkdir(exist_ok=True)
    for name, content in sorted(state.items()):
        path = root / name
        if content is None:
            path.mkdir(parents=True)
        elif path.parent.is_dir():  # else the name of its folder was lost
            path.write_bytes(content)
