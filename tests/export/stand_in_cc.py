"""A stand-in for `neuronx-cc`, for tests only: takes the compiler's command line, executes the HLO module by XLA on the CPU for the rows
that the file in STAND_IN_ROWS lists, and writes them as a "NEFF" for `tests/fake_nrt`, which gives them back.

So what is served are the numbers of the exported module, and all between module and client is the real thing. It says nothing about
what AWS's compiler makes of a module.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import struct
import sys
import tarfile

CHECKS = pathlib.Path(__file__).resolve().parents[2] / "neuron-export" / "checks"
sys.path.insert(0, str(CHECKS))

DTYPES = {"float32": 10, "bfloat16": 6}


def fnv(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def executed(runner, rows, bucket, pad_id):
    """The answer to each row that fits."""
    import numpy as np

    batch, seq = bucket["batch"], bucket["seq"]
    fitting = [row for row in rows if len(row["ids"]) <= seq]
    for start in range(0, len(fitting), batch):
        some = fitting[start : start + batch]
        ids = np.full((batch, seq), pad_id, np.int32)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(some):
            end = len(row["ids"])
            ids[i, :end], mask[i, :end], types[i, :end] = row["ids"], 1, row["type_ids"]
        answers = runner.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
        yield from zip(some, answers)


def contents(module: pathlib.Path) -> tuple[str, dict[str, str]]:
    """What the stand-in for the runtime reads, and the names of inputs and outputs."""
    import runners
    import tensors

    manifest = json.loads((module.parent / "manifest.json").read_text(encoding="utf-8"))
    bucket = next(one for one in manifest["buckets"] if one["hlo"]["file"] == module.name)
    numerics = manifest["numerics"]
    file = numerics.get("weights_file")
    weights = module.parent / file["file"] if file else None
    entry = {"file": str(module), "weights": weights, "parameters": numerics["param_order"]}
    inputs = [one["name"] for one in manifest["inputs"]]
    shape, lines = f"{bucket['batch']} {bucket['seq']}", []
    lines += [f"in input{i} 8 {shape}" for i in range(len(inputs))]
    found = tensors.read(weights, numerics["param_order"]) if weights else {}
    for i, tensor in enumerate(found.values(), len(inputs)):
        lines.append(f"in input{i} {DTYPES[tensor.dtype.name]} {' '.join(map(str, tensor.shape))}")
    variables = {line.split()[1]: "input" for line in lines} | {"output0": "output"}
    lines.append(f"out output0 10 {bucket['batch']} {manifest['outputs'][0]['width']}")
    if found:
        lines.append(f"weights {fnv(b''.join(tensor.tobytes() for tensor in found.values())):x}")
    rows = json.loads(pathlib.Path(os.environ["STAND_IN_ROWS"]).read_text(encoding="utf-8"))
    runner = runners.Hlo({"inputs": inputs}, entry)
    for row, answer in executed(runner, rows, bucket, manifest["tokenizer"]["pad_id"]):
        types = row["type_ids"] if "token_type_ids" in inputs else [0] * len(row["ids"])
        tokens = b"".join(struct.pack("<ii", *token) for token in zip(row["ids"], types))
        lines.append(f"row {fnv(tokens):x} {' '.join(f'{float(value):.9g}' for value in answer)}")
    return "\n".join(lines) + "\n", variables


def neff(text: str, variables: dict[str, str]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        definition = json.dumps({"var": {name: {"type": kind} for name, kind in variables.items()}})
        for name, content in [("recorded.txt", text.encode()), ("sg00/def.json", definition.encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = archive.getvalue()
    header = struct.pack("<5Q128sI", 2, 1024, len(data), 2, 0, b"stand-in", 1)
    return header.ljust(1024, b"\0") + data


def main() -> None:
    if "--version" in sys.argv:
        print("NeuronX Compiler version 0.0.stand-in")
        return
    assert sys.argv[1] == "compile", sys.argv
    out = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
    out.write_bytes(neff(*contents(pathlib.Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
