"""Reads safetensors files with numpy alone."""

import json
import struct

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4"), "BF16": np.dtype(ml_dtypes.bfloat16)}


def read(path, names=None):
    """The tensors of a file by name: all, or those of `names`. KeyError names one that is not there."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, mode="r", offset=8 + size)
    wanted = header if names is None else names
    return {name: view(data, header[name]) for name in wanted}


def view(data, entry):
    begin, end = entry["data_offsets"]
    return data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
