"""`gguf_types`: the other block types of GGUF: blocks of each, and tiny Llamas, one of them of all types, one split into files."""

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from . import blocks, decode, gguf_llama
from .case import Case

# type -> bytes of its head, as (place, dtype, factor); the others are codes and sub-scales, for which any bytes are good.
# A minimum is that many times the scale, so that values lie around 0.
HEADS = {
    "Q5_0": [(0, "<f2", 1)],
    "Q5_1": [(0, "<f2", 1), (2, "<f2", -15.5)],
    "Q2_K": [(80, "<f2", 1), (82, "<f2", 1.5)],
    "Q3_K": [(108, "<f2", 1)],
    "Q4_K": [(0, "<f2", 1), (2, "<f2", 7.5)],
    "Q5_K": [(0, "<f2", 1), (2, "<f2", 15.5)],
    "Q6_K": [(208, "<f2", 1)],
    "Q8_K": [(0, "<f4", 1)],
    "IQ4_NL": [(0, "<f2", 1)],
    "MXFP4": [],
}
# The types of one file, as llama.cpp's mixtures have several. Head and embedding are one Q6_K matrix. Rows of 64 values cannot be
# cut into blocks of 256.
MIXED = {
    "token_embd": "Q6_K",
    "blk.0.attn_q": "Q4_K",
    "blk.0.attn_k": "Q5_K",
    "blk.0.attn_v": "Q6_K",
    "blk.0.attn_output": "Q5_0",
    "blk.0.ffn_gate": "Q3_K",
    "blk.0.ffn_up": "Q2_K",
    "blk.0.ffn_down": "Q5_1",
    "blk.1.attn_q": "Q4_K",
    "blk.1.attn_k": "Q4_K",
    "blk.1.attn_v": "Q8_K",
    "blk.1.attn_output": "IQ4_NL",
    "blk.1.ffn_gate": "Q4_K",
    "blk.1.ffn_up": "Q4_K",
    "blk.1.ffn_down": "MXFP4",
}
WIDE = dict(hidden_size=256, intermediate_size=64, head_dim=16)
CHOICE = dict(pre="smollm", add_bos=False, tied=True)


def size_of(kind):
    """(values, bytes) of a block"""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def values_of(data, kind):
    """f32 of blocks. The gguf package knows the size of Q8_K, but not its values; ggml's `block_q8_K` is `float d; int8_t
    qs[256]; int16_t bsums[16]` and a value is `d * qs[i]` (`dequantize_row_q8_K`)."""
    kind = gguf.GGMLQuantizationType(kind)
    if kind != gguf.GGMLQuantizationType.Q8_K:
        return dequantize(data, kind)
    rows = np.ascontiguousarray(data).reshape(-1, 292)
    d = rows[:, :4].copy().view("<f4")
    values = d * rows[:, 4:260].view(np.int8).astype(np.float32)
    return values.reshape(*data.shape[:-1], -1)


def random_blocks(kind, shape, std, rng):
    """Blocks of random bytes with scales that give values of this standard deviation."""
    length, size = size_of(kind)
    count = int(np.prod(shape)) // length
    data = rng.integers(0, 256, (count, size), np.uint8)
    if kind == "MXFP4":
        data[:, 0] = 127 + np.round(np.log2(std / 4)) + rng.integers(-1, 2, count)
    scale = 1e-3
    for _ in range(2):
        each = rng.uniform(0.5, 1.5, count) * scale
        for at, dtype, factor in HEADS[kind]:
            head = (each * factor).astype(dtype)
            data[:, at : at + head.itemsize] = head.view(np.uint8).reshape(count, -1)
        if kind == "Q8_K":
            sums = data[:, 4:260].view(np.int8).reshape(count, 16, 16).sum(-1).astype("<i2")
            data[:, 260:] = sums.view(np.uint8)
        scale *= std / values_of(data, gguf.GGMLQuantizationType[kind]).std()
    return data.reshape(*shape[:-1], -1)


def encode(name, value, kind, rng):
    """The blocks of a weight: quantized where the package can, else random ones about as large as the weight."""
    try:
        return quantize(value, gguf.GGMLQuantizationType[kind])
    except NotImplementedError:
        return random_blocks(kind, value.shape, value.std(), rng)


def make(out):
    case = Case(out, "gguf_types", kind="gguf", files=[])
    add_blocks(case)
    files = {kind: dict(CHOICE, file=f"llama-{kind.lower()}.gguf", kinds=kind) for kind in ("Q5_0", "Q5_1", "IQ4_NL", "MXFP4")}
    files["mixed"] = dict(CHOICE, file="llama-mixed.gguf", kinds=MIXED, config=WIDE, format="Q6_K")
    for index, (label, choice) in enumerate(files.items()):
        choice = {**choice, "encode": encode, "values_of": values_of}
        seeds = range(1000 * index, 1000 * index + 100)
        decode.first_seed(f"gguf_types, {label}", lambda seed: blocks.attempt(case, label, choice, seed), seeds)
    split(case)
    case.write()


def add_blocks(case):
    """`blocks.gguf`: a matrix [4, 512] of random blocks for each type; its values are stored whole."""
    writer = gguf.GGUFWriter(case.folder / "blocks.gguf", "none")
    rng = np.random.default_rng(11)
    for kind in HEADS:
        data = random_blocks(kind, (4, 512), 0.5, rng)
        if kind == "MXFP4":
            # Every exponent that is finite and small enough for f32, subnormal ones with it.
            data.reshape(-1, 17)[:, 0] = rng.permutation(np.linspace(0, 250, 64).astype(np.uint8))
        writer.add_tensor(kind, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        case.add(f"blocks.{kind}", values_of(data, gguf.GGMLQuantizationType[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split(case):
    """The Q5_0 file again, in three parts as the package splits: `split-00001-of-00003.gguf` and so on."""
    whole = gguf.GGUFReader(case.folder / "llama-q5_0.gguf")
    writer = gguf.GGUFWriter(case.folder / "split.gguf", "llama", split_max_tensors=8)
    for name, entry in whole.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = entry.types[0]
            sub = entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), kind, sub)
    for tensor in whole.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(path.name for path in case.folder.glob("split-*.gguf"))
    assert len(parts) == 3, parts
    case.info["split"] = {"parts": parts, "of": "llama-q5_0.gguf"}
