"""The TorchScript file that `neuron-export/checks/torchscript.py` adds to an export, executed by `torch.jit` against transformers' answers.

Needs PyTorch, transformers and sentence-transformers (neuron-export/checks/requirements-torchscript.txt), which are large and which
`scripts/test` does not install: without them every test here is skipped, and says so.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest
from conftest import CHECKS, GOLDEN, case, koma, manifest
from test_parity import CASES, rolled_bias, verified

MISSING = [name for name in ["torch", "transformers", "sentence_transformers"] if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"TorchScript is NOT executed: no {', '.join(MISSING)} in this Python")


def script(model, folder):
    words = [sys.executable, CHECKS / "torchscript.py", model, folder]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=570)


def torchscript(folder):
    return next(one for one in manifest(folder)["portable"] if one["kind"] == "torchscript")


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_transformers(name, export):
    folder = export(name)
    done = script(folder.parent, folder)
    assert done.returncode == 0, done.stderr
    assert torchscript(folder)["parity"] is None
    result = verified(folder, "--golden", GOLDEN / name)
    assert result["status"] == "hlo-verified"
    found = torchscript(folder)["parity"]
    print(name, found)
    assert found["runner"].startswith("torch.jit 2.")
    # Five shapes, none of them a bucket's or the trace's.
    assert found["cases"] > len(case(name)["inputs"])
    assert found["max_abs"] <= found["tolerance"]


def test_a_wrong_bias_fails(export):
    name = "distilbert_classify"
    folder = export(name, change=rolled_bias)
    assert script(folder.parent, folder).returncode == 0
    done = koma("verify", folder, "--golden", GOLDEN / name)
    assert done.returncode == 1, done.stdout
    assert any(".torchscript" in line and "FAILS" in line for line in done.stdout.splitlines()), done.stdout


def test_another_model_is_not_traced(export, tmp_path):
    folder = export("distilbert_classify")
    other = tmp_path / "other"
    shutil.copytree(folder.parent, other)
    rolled_bias(other)
    done = script(other, folder)
    assert done.returncode == 1
    assert "model.safetensors is not that of the export" in done.stderr
    assert not list(folder.glob("*.pt"))


def test_a_tampered_file_is_refused(export):
    folder = export("distilbert_classify")
    assert script(folder.parent, folder).returncode == 0
    path = folder / torchscript(folder)["file"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = koma("verify", folder)
    assert done.returncode == 1
    assert path.name in done.stderr and "sha256" in done.stderr, done.stderr
