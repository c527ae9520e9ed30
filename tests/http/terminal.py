"""A program in a pseudo-terminal: what a person at a keyboard sees and types."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\r|\x07")
TIMEOUT = 120
CTRL_C = "\x03"
CTRL_D = "\x04"
CTRL_U = "\x15"
BACKSPACE = "\x7f"
UP, DOWN, LEFT = "\x1b[A", "\x1b[B", "\x1b[D"


def environment(**changes: str) -> dict[str, str]:
    """That of this process with a common terminal, and `changes`."""
    return {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | changes


class Terminal:
    """Runs `arguments` in a terminal of its own. `raw` is all it wrote, `text` the same without escape sequences."""

    def __init__(self, *arguments: str, **changes: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment(**changes),
        )
        os.close(slave)
        # Strict: half a character that stays half is an error.
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.raw = ""
        self.seen = 0

    @property
    def text(self) -> str:
        return ESCAPE.sub("", self.raw)

    def _more(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], TIMEOUT)
        assert ready, f"nothing for {TIMEOUT} s after:\n{self.text}"
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux says so when the other side is closed
            data = b""
        self.raw += self.decoder.decode(data, final=not data)
        return bool(data)

    def until(self, pattern: str) -> re.Match[str]:
        """Waits for `pattern` behind what was found before."""
        while True:
            found = re.compile(pattern).search(self.text, self.seen)
            if found:
                self.seen = found.end()
                return found
            assert self._more(), f"the program ended before {pattern!r}:\n{self.text}"

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def line(self, text: str) -> None:
        """Types a line, and waits until it stands there and Enter has moved on."""
        self.type(text + "\r")
        self.until(re.escape(text) + r"\n")

    def end(self) -> int:
        """Reads to the end, and gives the exit status."""
        while self._more():
            pass
        os.close(self.master)
        return self.process.wait(timeout=TIMEOUT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
