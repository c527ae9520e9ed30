"""What each kernel takes of a multiprocessor, on every architecture: compiled by nvcc, compared with the committed table.

    scripts/cuda_resources.py           compares; --write writes the table anew

Registers of a thread, static shared memory, stack and spills as ptxas tells them, and instructions of tensor cores in the machine
code. A difference is a change to look at and to commit. Refused are: spills and local memory in the kernels of a decoder's step; a
kernel of tiles that does not use tensor cores; loads and stores by pointers that the compiler could not place in one kind of memory.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "kernels" / "cuda"
TABLE = SOURCES / "resources.txt"
# As in kernels/build.rs.
ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
# Kernels that run in every step of a decoder, a row or a few rows for each request, and attention of prompts.
DECODE = re.compile(r"attention_\w+_q1_|attention_tiles|merge_splits|write_kv|gemv|gemm|route|sort_by_expert|cut_by_expert|silu_times|unpack_e4m3|look_up|(residual_)?rms_norm|rope|finish|take_|soft_cap|scale|gather_rows|combine|choose_tokens|look_at_rows|edit_rows|mix_states")

COMPILED = re.compile(r"Compiling entry function '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
# Kernels whose products are tensor cores'. (What is narrower than a fragment has plain ones; sm_75 has no bf16.)
TILES = re.compile(r"gemm_\w+(?<!_plain)$|attention_tiles_\w+$")
FUNCTION = re.compile(r"Function : (\w+)")
# Of tensor cores; by pointers that could be to anything; of local memory.
TOLD = re.compile(r" ([HQ]G?MMA|LD\.E|ST\.E|LDL|STL)[ .]")


def compile_one(nvcc: Path, source: Path, sm: int) -> list[str]:
    """The lines of one source on one architecture."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        command = [nvcc, "-std=c++17", "-O3", "-cubin", "-I", SOURCES, "-Xptxas", "-v", "-o", cubin.name, source, f"-arch=sm_{sm}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{source.name} for sm_{sm}: nvcc failed\n{done.stderr}")
        tensor = look_at_code(nvcc.parent, Path(cubin.name), sm)
    lines, kernel, stack = [], None, (0, 0, 0)
    for line in done.stderr.splitlines():
        if found := COMPILED.search(line):
            kernel, stack = found[1], (0, 0, 0)
        elif found := STACK.search(line):
            stack = tuple(map(int, found.groups()))
        elif kernel and (found := USED.search(line)):
            shared = SHARED.search(line)
            spills = stack[1] + stack[2]
            lines.append(f"{kernel} {sm} {found[1]} {shared[1] if shared else 0} {stack[0]} {tensor[kernel]} {spills}")
            kernel = None
    return lines


def look_at_code(tools: Path, cubin: Path, sm: int) -> dict[str, int]:
    """How many instructions of tensor cores each kernel has; ends where the machine code has what it must not have."""
    found = os.pathsep.join([str(tools), os.environ["PATH"]])
    command = [tools / "cuobjdump", "-sass", cubin]
    code = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": found}).stdout
    tensor, kernel = {}, None
    for line in code.splitlines():
        if named := FUNCTION.search(line):
            kernel = named[1]
            tensor[kernel] = 0
        elif found := TOLD.search(line):
            tensor[kernel] += found[1].endswith("MMA")
            if found[1].endswith(".E"):
                sys.exit(f"{kernel} for sm_{sm} does not know what memory it reads or writes: {line.strip()}")
            if found[1].endswith("L") and DECODE.match(kernel):
                sys.exit(f"{kernel} for sm_{sm} uses local memory: {line.strip()}")
    for kernel, count in tensor.items():
        if TILES.match(kernel) and count == 0 and not (sm < 80 and "_bf16" in kernel):
            sys.exit(f"{kernel} for sm_{sm} does not use tensor cores")
    return tensor


def compile_all(nvcc: Path) -> list[str]:
    """The table's lines, as its head says."""
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
    head = "# kernel, architecture, registers, bytes of shared memory, of stack, instructions of tensor cores, bytes of spills; by scripts/cuda_resources.py"
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
