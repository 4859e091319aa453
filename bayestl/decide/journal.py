"""A journal that is only ever appended to, one checked JSON line for each event, and the lock that keeps it to one process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayestl.errors import DataError, notice

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

CHECK = ', "check": "'


class Lock:
    """Held by one process at a time, on a file beside the one that it protects.

    The operating system lets go of it when the process dies, however it dies: a stale file blocks nobody. The file is left in
    place, as removing it would let two processes hold locks on two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(fd)
        except OSError as error:
            holder = os.pread(fd, 1000, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise DataError(
                    f"{str(path)!r} cannot be locked ({error}). Keep it on a file system that has locks."
                ) from error
            raise DataError(f"{str(path)!r} is in use: {_who(holder)} Close it there (`close()`) first.") from error
        os.ftruncate(fd, 0)
        os.write(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        self.release = weakref.finalize(self, os.close, fd)


def _hold(fd: int) -> None:
    if sys.platform == "win32":
        os.lseek(fd, 1 << 30, os.SEEK_SET)  # far behind what is written, which must stay readable
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _who(holder: str) -> str:
    try:
        found = json.loads(holder)
        pid, host = int(found["pid"]), str(found["host"])
    except (ValueError, KeyError, TypeError):
        return "another process holds its lock."
    if (pid, host) == (os.getpid(), socket.gethostname()):
        return f"this process (pid {pid}) holds it already."
    return f"process {pid} on {host} holds it."


class Journal:
    """Events, each a JSON object on a line of its own that ends with a check of it and of all lines before it.

    `append` returns when the line is on disk. A process that is killed leaves at most the beginning of a line, which was never
    acknowledged: `open` drops it, and warns. Any other damage is refused.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "notes.jsonl"
    >>> journal, events = Journal.create(path, {"event": "create"})
    >>> journal.append({"event": "tell", "value": 1.5})
    {'event': 'tell', 'value': 1.5}
    >>> journal.close()
    >>> journal, events = Journal.open(path)
    >>> [event["event"] for event in events]
    ['create', 'tell']
    >>> journal.close(); folder.cleanup()
    """

    def __init__(self, path: Path, lock: Lock, check: str, size: int) -> None:
        self.path, self.lock, self.check, self.size = path, lock, check, size
        self.pid = os.getpid()

    @classmethod
    def create(cls, path: str | Path, first: Mapping[str, Any]) -> tuple[Journal, list[dict[str, Any]]]:
        """Begin a journal; the file appears with its first line or not at all."""
        path = Path(os.path.realpath(path))
        if not path.parent.is_dir():
            raise DataError(f"There is no folder {str(path.parent)!r}. Make it, or give another path.")
        lock = Lock(path)
        try:
            if path.exists():
                raise DataError(f"{str(path)!r} exists already. Open it, or give another path.")
            line, check = _line(first, "")
            partial = path.with_name(path.name + ".partial")
            with open(partial, "wb") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        except BaseException:
            lock.release()
            raise
        return cls(path, lock, check, len(line)), [json.loads(json.dumps(first))]

    @classmethod
    def open(cls, path: str | Path) -> tuple[Journal, list[dict[str, Any]]]:
        """Read a journal and go on with it."""
        path = Path(os.path.realpath(path))
        if not path.is_file():
            raise DataError(f"There is no file {str(path)!r}.")
        lock = Lock(path)
        try:
            whole = path.read_bytes()
            events, check, size = read(whole, str(path))
            if size < len(whole):
                with open(path, "r+b") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())
                notice(
                    f"{str(path)!r} ended in {len(whole) - size} bytes of a line that was being written when its process was "
                    "killed. It was never acknowledged, and is dropped; nothing else is lost."
                )
        except BaseException:
            lock.release()
            raise
        return cls(path, lock, check, size), events

    def append(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write an event to the disk, and give it back as it will be read."""
        if not self.lock.release.alive:
            raise DataError(f"{str(self.path)!r} was closed. Open it again.")
        if os.getpid() != self.pid:
            raise DataError(f"{str(self.path)!r} was opened by process {self.pid}: a child of it must not write there.")
        if not self.path.is_file():
            raise DataError(
                f"{str(self.path)!r} is there no more. Move it back, or close the campaign and open it where it is."
            )
        line, check = _line(event, self.check)
        with open(self.path, "r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) != self.size:
                raise DataError(f"{str(self.path)!r} was changed by something else. Close it, and open it again.")
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "The line could not be written whole", str(self.path))
                os.fsync(file.fileno())
            except BaseException:  # not acknowledged, so it must not be there
                with contextlib.suppress(OSError):
                    file.truncate(self.size)
                raise
        self.check, self.size = check, self.size + len(line)
        return json.loads(json.dumps(event))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the lock."""
        self.lock.release()


def read(whole: bytes, name: str) -> tuple[list[dict[str, Any]], str, int]:
    """Events in a file's bytes, the last check, and how many bytes are good; a torn end is left out."""
    *lines, torn = whole.split(b"\n")
    if not lines:
        raise DataError(f"{name!r} is not a campaign that bayestl wrote, or was cut short in its first line.")
    events, check = [], ""
    for number, line in enumerate(lines, 1):
        body, _, rest = line.decode(errors="replace").rpartition(CHECK)
        found = _digest(check, body + "}")
        if rest != found + '"}':
            if rest == found + '"}\r':
                raise DataError(
                    f"The lines of {name!r} end as on Windows, which some programs do to text. Restore a copy."
                )
            raise DataError(
                f"Line {number} of {name!r} is damaged: its check does not match it and the lines before. Restore a copy, or "
                f"keep what is whole, the first {number - 1} lines, with a text editor."
            )
        events.append(json.loads(body + "}"))
        check = found
    return events, check, len(whole) - len(torn)


def _line(event: Mapping[str, Any], check: str) -> tuple[bytes, str]:
    body = json.dumps(event, allow_nan=False, ensure_ascii=False)
    found = _digest(check, body)
    return f'{body[:-1]}{CHECK}{found}"}}\n'.encode(), found


def _digest(check: str, body: str) -> str:
    return hashlib.sha256(f"{check}{body}".encode()).hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    """Put the name of a new file on the disk, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
