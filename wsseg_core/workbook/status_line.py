"""One line at the foot of a terminal that says how far something is, above the bar that something else draws."""

import threading
import time
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import TextIO


class StatusLine:
    """A terminal whose last but one line says how far it is, above the bar that something else is drawing.

    What is written to it goes to the terminal: whole lines above the status, an unfinished one below. It stands in
    for a file (`write`, `flush`).

    Args:
        terminal: what is written to.
        text: gives the line for the seconds that have passed and the characters that it may have.
        every: seconds between two looks at the clock.
    """

    def __init__(self, terminal: TextIO, text: Callable[[float, int], str], every: float = 1.0) -> None:
        self._terminal, self._text, self._every = terminal, text, every
        self._start = time.monotonic()
        self._bar = ""
        self._drawn = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "StatusLine":
        self._draw()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._terminal.write(self._erased() + (f"{self._bar}\n" if self._bar else ""))
            self._terminal.flush()

    def write(self, text: str) -> int:
        """Take what a program writes that thinks that it has the terminal for itself."""
        *lines, rest = (self._bar + text).split("\n")
        self._bar = _seen(rest)
        self._draw([_seen(line) for line in lines])
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _tick(self) -> None:
        while not self._ended.wait(self._every):
            self._draw()

    def _draw(self, finished: Sequence[str] = ()) -> None:
        width = get_terminal_size().columns - 1  # a line that wraps could not be erased
        status = self._text(time.monotonic() - self._start, width)
        with self._lock:
            above = "".join(f"{line}\n" for line in finished if line)
            self._terminal.write(f"{self._erased()}{above}{status}\n{self._bar[:width]}")
            self._terminal.flush()
            self._drawn = True

    def _erased(self) -> str:
        return "\r\x1b[A\x1b[J" if self._drawn else ""


def _seen(line: str) -> str:
    """What a terminal shows of a line that was written over itself."""
    return line.rstrip("\r").rpartition("\r")[2].rstrip()
