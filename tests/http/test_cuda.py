"""`--device cuda:N|auto` where there is no NVIDIA driver: an error that says so, or the CPU with a line in the log."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
from conftest import ROOT, free_port, start, stop, wait_ready

NEEDED = "no NVIDIA driver was found (libcuda.so.1); one for CUDA 13.0, version 580 or later, is needed"


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_is_needed() -> None:
    command = [os.environ["KOMA_BIN"], "serve", "intent=tests/models/intent", "--device", "cuda:0", "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert NEEDED in done.stderr and "panicked" not in done.stderr, done.stderr


def test_a_plan_for_a_gpu_that_is_not_there_says_the_same() -> None:
    command = [os.environ["KOMA_BIN"], "plan", "tests/models/intent", "--input-len", "8", "--device", "cuda:0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert NEEDED in done.stderr and "panicked" not in done.stderr, done.stderr
    # With `auto` it is a forecast of the processors' work.
    command[-1] = "auto"
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0 and "expected for" in done.stdout, done.stdout + done.stderr


def test_auto_falls_back_to_the_cpu_and_says_why() -> None:
    server = start("intent=tests/models/intent", "--device", "auto")
    try:
        wait_ready(server)
        reply = server.post("/classify", {"model": "intent", "input": ["Where is my order?"]})
        assert reply.status == 200, reply.body
        assert server.metric("koma_model_info", device="cpu") == 1
    finally:
        stop(server)
    assert any("no GPU for this model" in line and NEEDED in line for line in server.log), server.log
