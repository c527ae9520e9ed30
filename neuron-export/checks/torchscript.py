"""Adds TorchScript to an export: `python torchscript.py MODEL_DIR EXPORT_DIR`, then `koma export verify EXPORT_DIR`.

Needs requirements-torchscript.txt. PyTorch calls torch.jit deprecated (it warns so since 2.15); this file is for runtimes that
still want it, and nothing else in Koma needs it. The trace takes any batch and sequence.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import sys
import tempfile

import torch

NAME = "model.torchscript.pt"
# Larger than 1 in both directions, and with a ragged mask: what a trace sees as constant becomes constant.
BATCH, SEQ = 2, 8


def named(names, inputs):
    """Inputs by name. A row of nothing but padding counts its first token: some poolings would give no numbers for it."""
    inputs = dict(zip(names, inputs))
    mask = inputs["attention_mask"]
    empty = (mask.sum(1, keepdim=True) == 0).to(mask.dtype)
    inputs["attention_mask"] = torch.cat([torch.maximum(mask[:, :1], empty), mask[:, 1:]], 1)
    return inputs


class Classifier(torch.nn.Module):
    def __init__(self, folder, names):
        super().__init__()
        from transformers import AutoModelForSequenceClassification

        self.names = names
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )

    def forward(self, *inputs):
        return self.model(**named(self.names, inputs)).logits


class Embedder(torch.nn.Module):
    def __init__(self, folder, names):
        super().__init__()
        from sentence_transformers import SentenceTransformer

        self.names = names
        exact = {"dtype": torch.float32, "attn_implementation": "eager"}
        modules = list(SentenceTransformer(str(folder), device="cpu", model_kwargs=exact))
        # As in the other files: who asks decides whether vectors get length 1.
        if type(modules[-1]).__name__ == "Normalize":
            modules.pop()
        self.model = torch.nn.Sequential(*modules)

    def forward(self, *inputs):
        return self.model(named(self.names, inputs))["sentence_embedding"]


def trace(folder, manifest):
    names = [one["name"] for one in manifest["inputs"]]
    kind = Embedder if manifest["task"] == "sentence-embedding" else Classifier
    ids = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ) % manifest["tokenizer"]["vocab_size"]
    mask = torch.ones(BATCH, SEQ, dtype=torch.long)
    mask[1, SEQ // 2 :] = 0
    example = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        traced = torch.jit.trace(kind(folder, names).eval(), tuple(example[name] for name in names), check_trace=False)
        return torch.jit.freeze(traced)


def place(folder, name, write):
    """Writes a file beside its place, then into it."""
    handle, path = tempfile.mkstemp(dir=folder, prefix="new-", suffix=pathlib.Path(name).suffix)
    os.close(handle)
    try:
        write(path)
        os.chmod(path, 0o644)
        os.replace(path, folder / name)
    except BaseException:
        os.unlink(path)
        raise


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def held(folder):
    """Nobody else changes the manifest meanwhile: `koma export verify` and `compile` hold the folder, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def add(export, source, traced):
    """Puts the file into the export, as its manifest is now; its bytes."""
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    if manifest["source"] != source:
        sys.exit(f"{export} was made anew meanwhile")
    others = [one for one in manifest["portable"] if one["kind"] != "torchscript"]

    def named(portable):
        text = json.dumps({**manifest, "portable": portable}, indent=2, ensure_ascii=False)
        place(export, "manifest.json", lambda path: pathlib.Path(path).write_text(text + "\n", encoding="utf-8"))

    # The manifest never names a file with other bytes than it says.
    named(others)
    place(export, NAME, lambda path: traced.save(path))
    size = (export / NAME).stat().st_size
    entry = {
        "kind": "torchscript",
        "file": NAME,
        "sha256": sha256(export / NAME),
        "bytes": size,
        "optional": True,
        "parity": None,
    }
    named([*others, entry])
    return size


def main():
    model, export = map(pathlib.Path, sys.argv[1:3])
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    source = manifest["source"]
    for name, expected in [("config.json", source["config_sha256"])] + [(w["file"], w["sha256"]) for w in source["weights"]]:
        if sha256(model / name) != expected:
            sys.exit(f"{model / name} is not that of the export in {export}")
    torch.set_num_threads(1)
    traced = trace(model, manifest)
    with held(export):
        size = add(export, source, traced)
    print(f"{export / NAME}: {size} bytes; not verified yet (koma export verify {export})")


if __name__ == "__main__":
    main()
