"""A process whose output is kept, and which is told, frozen and killed."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

BIN = Path(sys.executable).parent
"""Where the commands of this environment are."""

READY = re.compile(r"\[info\] Bedrock daemon now running at (\S+)")
"""The line of a server that is ready; its group is the address."""


class Process:
    """A process whose lines of output are kept as they come.

    Parameters
    ----------
    *command : str or Path
    directory : Path
        Where it runs.
    stderr : file, optional
        Where its errors go; among the lines of output by default.

    Attributes
    ----------
    pid : int
    lines : list of str
        What it has written so far.
    """

    def __init__(self, *command: str | Path, directory: Path, stderr: IO[str] | None = None) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._popen = subprocess.Popen(
            [str(argument) for argument in command],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if stderr is None else stderr,
            stdin=subprocess.PIPE,
            text=True,
        )
        self.pid = self._popen.pid
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        """All lines so far."""
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 30, nth: int = 0) -> re.Match[str]:
        """Wait for a line that matches, after `nth` others that do.

        Raises
        ------
        AssertionError
            If the process ends before, or the time is over; with all that it has written.
        """
        seen = skipped = 0

        def found() -> re.Match[str] | bool:
            nonlocal seen, skipped
            while seen < len(self.lines):
                if match := re.search(pattern, self.lines[seen]):
                    if skipped == nth:
                        return match
                    skipped += 1
                seen += 1
            return self._ended

        with self._news:
            match = self._news.wait_for(found, timeout)
        assert isinstance(match, re.Match), f"no line with {pattern!r} in:\n{self.output}"
        return match

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def freeze(self) -> None:
        """Stop it as it stands; it holds all that it has, and answers nobody."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def end(self, timeout: float = 30) -> int:
        """Wait for its end; return the exit status."""
        status = self._popen.wait(timeout)
        self._thread.join(timeout)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None and not self._thread.is_alive():
                pipe.close()
        return status

    def stop(self, timeout: float = 30) -> int:
        """Ask it to end, as an operator does, and wait; return the exit status."""
        self.signal(signal.SIGTERM)
        return self.end(timeout)

    def kill(self) -> None:
        """Kill it at once; no more output comes after this."""
        self._popen.kill()
        self.end()

    def close(self) -> None:
        """Leave nothing of it."""
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def children(pid: int) -> Sequence[int]:
    """Return the process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
