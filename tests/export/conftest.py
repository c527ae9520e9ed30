"""`koma export` and its subcommands on the golden fixtures, as a user runs them.

`KOMA_BIN` names the binary. This Python is the one that executes the exports (requirements.txt beside this file). Without jaxlib
nothing can be executed: that is a skip, and with the variable CI set a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
CHECKS = ROOT / "neuron-export" / "checks"
sys.path.insert(0, str(CHECKS))

LIBRARIES = ["jaxlib", "onnx", "onnxruntime"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI"):
        pytest.exit(f"not installed: {', '.join(missing)}", returncode=1)
    for item in items if missing else []:
        item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


def koma(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `koma export` with these arguments, and with more variables."""
    words = [os.environ["KOMA_BIN"], "export", *map(str, arguments)]
    environment = {**os.environ, "KOMA_PYTHON": sys.executable, **(environment or {})}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=570)


def case(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "case.json").read_text(encoding="utf-8"))


def manifest(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture
def export(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Exports a copy of a fixture's model, changed by `change`, into its own `neuron` folder."""

    def run(name: str, *flags: object, change: Callable[[pathlib.Path], None] | None = None) -> pathlib.Path:
        model = tmp_path / "model"
        shutil.copytree(GOLDEN / name / "model", model)
        if change:
            change(model)
        limit = case(name)["limit"]
        out = model / "neuron"
        done = koma(model, "--out", out, "--batch", "1,4", "--seq", f"16,{limit}", *flags)
        assert done.returncode == 0, done.stderr
        return out

    return run
