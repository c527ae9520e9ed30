"""One fixture folder: `model/`, `expected.safetensors` (floats) and `case.json` (text and whole numbers)."""

import json
import platform
import re
import shutil
import tempfile
from importlib.metadata import version

import numpy as np
import torch
from safetensors.numpy import save_file

LIBRARIES = ["torch", "transformers", "tokenizers", "sentence-transformers", "safetensors", "gguf", "numpy", "jinja2"]


def write_json(path, value):
    """Indented JSON with number lists on one line, so that diffs and eyes can follow it."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    flat = re.sub(r"\[\s+(-?[\d.eE+-]+(?:,\s+-?[\d.eE+-]+)*)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(flat + "\n", encoding="utf-8")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path, drop=(), **changes):
    """Changes fields of a written config: how the older and the rarer spellings are made."""
    value = read_json(path)
    for key in drop:
        value.pop(key, None)
    value.update(changes)
    write_json(path, value)


class Answers:
    """What the reference answered: floats in `tensors`, all else in `info`."""

    def __init__(self, name):
        self.name, self.info, self.tensors = name, {}, {}

    def add(self, name, value):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        assert array.dtype == np.float32, f"{self.name}: {name} is {array.dtype}"
        assert np.isfinite(array).all(), f"{self.name}: {name} is not finite"
        self.tensors[name] = np.ascontiguousarray(array)


class Case(Answers):
    """Answers in a folder of their own."""

    def __init__(self, out, name, **info):
        super().__init__(name)
        self.folder = out / name
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.model = self.folder / "model"
        self.model.mkdir(parents=True)
        self.info = info

    def add_all(self, prefix, answers):
        """Takes over the floats of other answers."""
        for name, value in answers.tensors.items():
            self.add(f"{prefix}.{name}", value)

    def write(self):
        if not any(self.model.iterdir()):
            self.model.rmdir()
        if self.tensors:
            save_file(self.tensors, self.folder / "expected.safetensors")
        made_with = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
        write_json(self.folder / "case.json", {"name": self.name, **self.info, "made_with": made_with})


def save_again(model, folder):
    """Replaces a sentence-transformers folder by what the library saves today, without the model card."""
    with tempfile.TemporaryDirectory() as fresh:
        model.save(fresh)
        shutil.rmtree(folder)
        shutil.copytree(fresh, folder, ignore=shutil.ignore_patterns("README.md"))


def relative(a, b):
    """Largest difference over the largest magnitude of the reference `b`."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return float((a - b).abs().max() / b.abs().max())


def fill(model, seed, embedding=0.02, matrix=0.15, bias=0.1, scales=None):
    """Seeded random parameters: norms near one, biases that are not zero, so that nothing can be left out unseen.

    `scales` maps a part of a parameter's name to its standard deviation, before the general rules.
    """
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=rng)
        special = next((std for part, std in (scales or {}).items() if part in name), None)
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data = 1.0 + 0.15 * noise
        elif special is not None:
            parameter.data = special * noise
        elif name.endswith("bias"):
            parameter.data = bias * noise
        elif "embed" in name:
            parameter.data = embedding * noise
        else:
            parameter.data = matrix * noise
    model.tie_weights()
    return model.eval()
