"""Child processes: run to the end, memory of a tree of them, and company that keeps the cores busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator


class Failed(Exception):
    """A contender could not do what was asked; the message goes into the report."""


def output(command: list[str], env: dict[str, str], timeout: float, errors: bool = False) -> str:
    """Standard output of a command that ends well, with `errors` also what it says beside. Raises Failed with its last line
    otherwise. It runs in an empty folder: some leave a log where they are.
    """
    try:
        with TemporaryDirectory() as folder:
            done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {timeout:.0f} s") from None
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode}: {last_line(done.stderr)}")
    return done.stdout + done.stderr if errors else done.stdout


def last_line(text: str) -> str:
    """The last line that says something, cut to what fits a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing said"


def end(process: subprocess.Popen, patience: float = 30) -> None:
    """Asks a process that leads its own group to end, and makes it and all that it started: vLLM's workers outlive it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def tree(pid: int) -> list[int]:
    """The process and all below it that are there now."""
    found = [pid]
    for known in found:
        try:
            threads = list(Path(f"/proc/{known}/task").iterdir())
            children = [int(c) for thread in threads for c in (thread / "children").read_text().split()]
        except OSError:
            continue
        found.extend(children)
    return found


def peak_bytes(pid: int) -> int:
    """Peak resident memory (VmHWM) of a process and those below it, summed; pages they share count in each."""
    total = 0
    for one in tree(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        total += high_water_bytes(status)
    return total


def high_water_bytes(status: str) -> int:
    """VmHWM of the text of /proc/PID/status; 0 where it has none."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_part(seconds: float) -> float:
    """What part of all cores was at work during the next `seconds`, 0 to 1: company that a measurement must not have."""
    before = Path("/proc/stat").read_text()
    time.sleep(seconds)
    return worked(before, Path("/proc/stat").read_text())


def worked(before: str, after: str) -> float:
    """The same of two texts of /proc/stat."""
    first, second = (_times(text) for text in (before, after))
    spent = [b - a for a, b in zip(first, second)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return 1 - idle / sum(spent) if sum(spent) else 0.0


def _times(stat: str) -> list[int]:
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    return [int(field) for field in stat.split("\n", 1)[0].split()[1:9]]


def above_avx2(cpuinfo: str | None = None) -> bool:
    """Whether the processor, or that of a text of /proc/cpuinfo, has vector instructions that AVX2 lacks and peers would use."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    return not {"avx512f", "avx_vnni"}.isdisjoint(text.split())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps `count` processes counting while the body runs."""
    spin = [sys.executable, "-c", "while True: pass"]
    company = [subprocess.Popen(spin, env=dict(os.environ)) for _ in range(count)]
    try:
        yield
    finally:
        for process in company:
            process.kill()
            process.wait()


@contextmanager
def quota(cores: float, root: Path = Path("/sys/fs/cgroup")) -> Iterator[None]:
    """Runs the body, and what it starts, in a control group of its own with this many cores' worth of time.

    Raises Failed where no group can be made: that takes write access, as root has outside of most containers.
    """
    try:
        folder, home = _new_group(root, cores)
    except OSError as error:
        raise Failed(f"no control group with a quota can be made here: {error}") from None
    try:
        (folder / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        _remove(folder)


def _new_group(root: Path, cores: float) -> tuple[Path, Path]:
    """A new group, and the one that this process is in: of version 2 if it has the cpu controller, else of version 1."""
    period = 100_000
    granted = int(cores * period)
    own = {names: path for _, names, path in (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())}
    controllers = root / "cgroup.controllers"
    if controllers.exists() and "cpu" in controllers.read_text().split():
        home = root / own.get("", "/").strip("/")
        folder = home / f"koma-bench-{os.getpid()}"
        if "cpu" not in (home / "cgroup.subtree_control").read_text().split():
            (home / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
        limits = {"cpu.max": f"{granted} {period}"}
    else:
        names = next((names for names in own if "cpu" in names.split(",")), "cpu")
        home = root / names / own.get(names, "/").strip("/")
        folder = home / f"koma-bench-{os.getpid()}"
        folder.mkdir()
        limits = {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": str(granted)}
    try:
        for name, value in limits.items():
            (folder / name).write_text(value)
    except OSError:
        folder.rmdir()
        raise
    return folder, home


def _remove(folder: Path) -> None:
    # Processes that have just ended still count for a moment.
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.05)
