"""`bad`: inputs that must be refused with a message that says where; and, as the negative control, their unbroken origins."""

import shutil
import tempfile
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from . import broken_folders, broken_gguf
from .case import write_json


def make(out):
    bad = out / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    bad.mkdir(parents=True)
    cases = gguf_files(bad) + folders(bad)
    for case in cases:
        for text in case["any_of"] or []:
            # A message that only repeats the path must not pass, unless the file's name is what is asked for.
            assert text not in case["path"] or text == case["path"], case
    write_json(bad / "cases.json", cases)


def gguf_files(bad):
    good = bad / "ok.gguf"
    broken_gguf.good().write(good)
    broken_gguf.check_good(good)
    rows = [{"path": good.name, "why": "nothing", "any_of": None}]
    original = good.read_bytes()
    for name, why, any_of, file in broken_gguf.breakages():
        file.write(bad / name)
        assert (bad / name).read_bytes() != original, name
        rows.append({"path": name, "why": why, "any_of": any_of})
    return rows


def folders(bad):
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for base, build in broken_folders.BASES.items():
            (Path(place) / base).mkdir()
            build(Path(place) / base)
        for name, base, why, any_of, patch in broken_folders.TABLE:
            shutil.copytree(Path(place) / base, bad / name)
            patch(bad / name)
            rows.append({"path": name, "why": why, "any_of": any_of})
            if any_of is None:
                AutoModel.from_pretrained(bad / name)
                AutoTokenizer.from_pretrained(bad / name)
    return rows
