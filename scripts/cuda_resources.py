"""What each kernel takes of a multiprocessor, on every architecture: compiled by nvcc, compared with the committed table.

    scripts/cuda_resources.py           compares; --write writes the table anew

Registers of a thread, static shared memory, stack and spills as ptxas tells them. A difference is a change to look at and to
commit; spills are refused in the kernels of a decoder's step.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "kernels" / "cuda"
TABLE = SOURCES / "resources.txt"
# As in kernels/build.rs.
ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
# Kernels that run in every step of a decoder, a row or a few rows for each request, and attention of prompts.
DECODE = re.compile(r"attention_\w+_q1_|attention_tiles|merge_splits|write_kv|gemv|gemm|route|sort_by_expert|cut_by_expert|silu_times|unpack_e4m3|look_up|rms_norm|rope|finish|take_|soft_cap|scale|gather_rows|combine|choose_tokens|look_at_rows|edit_rows|mix_states")

COMPILED = re.compile(r"Compiling entry function '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def compile_one(nvcc: Path, source: Path, sm: int) -> list[str]:
    """The lines of one source on one architecture."""
    command = [nvcc, "-std=c++17", "-O3", "-cubin", "-I", SOURCES, "-Xptxas", "-v", "-o", os.devnull, source, f"-arch=sm_{sm}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{source.name} for sm_{sm}: nvcc failed\n{done.stderr}")
    lines, kernel, stack = [], None, (0, 0, 0)
    for line in done.stderr.splitlines():
        if found := COMPILED.search(line):
            kernel, stack = found[1], (0, 0, 0)
        elif found := STACK.search(line):
            stack = tuple(map(int, found.groups()))
        elif kernel and (found := USED.search(line)):
            shared = SHARED.search(line)
            lines.append(f"{kernel} {sm} {found[1]} {shared[1] if shared else 0} {stack[0]} {stack[1] + stack[2]}")
            kernel = None
    return lines


def compile_all(nvcc: Path) -> list[str]:
    """The table's lines: kernel, architecture, registers, shared bytes, stack, bytes of spills."""
    tasks = [(source, sm) for source in sorted(SOURCES.glob("*.cu")) for sm in ARCHITECTURES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted(line for lines in pool.map(lambda task: compile_one(nvcc, *task), tasks) for line in lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true")
    write = arguments.parse_args().write
    home = os.environ.get("CUDA_HOME")
    if not home:
        sys.exit("CUDA_HOME must name a CUDA toolkit 13.0: CUDA_HOME=$(./scripts/cuda-toolkit)")
    lines = compile_all(Path(home) / "bin" / "nvcc")
    spilled = [line for line in lines if DECODE.match(line) and not line.endswith(" 0")]
    if spilled:
        sys.exit("spills in kernels of a decoder's step:\n" + "\n".join(spilled))
    head = "# kernel, architecture, registers, bytes of shared memory, of stack, of spills; by scripts/cuda_resources.py"
    text = "\n".join([head, *lines]) + "\n"
    if write:
        TABLE.write_text(text)
    elif TABLE.read_text() != text:
        old = set(TABLE.read_text().splitlines())
        changed = [line for line in lines if line not in old]
        gone = [line for line in old if line not in set(text.splitlines())]
        sys.exit("the table is not what nvcc says:\n" + "\n".join([f"- {line}" for line in sorted(gone)] + [f"+ {line}" for line in changed]))
    print(f"{len(lines)} kernels, {sum(not line.endswith(' 0') for line in lines)} with spills, none of a decoder's step")


main()
