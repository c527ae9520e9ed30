"""What GPUs could give at best, computed: for each kernel of a decoder's step the bytes that it must move and the operations that it
must do, the time that a data sheet allows for the larger of both, and tokens a second from their sum.

    scripts/gpu_expectations.py         prints the tables of docs/performance.md ("GPUs, on paper")

Nothing here was measured. A launch takes time of its own (a few microseconds each, less under a captured graph), no kernel reaches a
data sheet; packed weights behind more than 64 rows are unpacked in memory first, and behind 9 to 64 in shared memory: that is counted.
"""

from dataclasses import dataclass

# Bytes a second; operations a second of tensor cores in f16 or bf16, dense; of f32 outside of them. NVIDIA's data sheets
# (A10G: AWS).
GPUS = {
    "T4": (320e9, 65e12, 8.1e12),
    "A10G": (600e9, 70e12, 35e12),
    "L4": (300e9, 121e12, 30e12),
    "L40S": (864e9, 362e12, 91e12),
    "H100": (3350e9, 989e12, 67e12),
}
# As in kernels/src/cuda/way.rs.
FEW_ROWS, SOME_ROWS = 8, 64
# As in kernels/src/cuda/ops/attention: rows of a request, and queries of a key head, above and from which it goes through tiles.
FEW_QUERY_ROWS, FRAGMENT = 4, 16


@dataclass
class Model:
    name: str
    layers: int
    hidden: int
    inner: int
    q_heads: int
    kv_heads: int
    dim: int
    vocab: int
    gated: bool = True

    def products(self) -> list[tuple[str, int, int]]:
        """Outputs and columns of each product of a layer."""
        qkv = (self.q_heads + 2 * self.kv_heads) * self.dim
        up = 2 * self.inner if self.gated else self.inner
        return [
            ("q, k, v", qkv, self.hidden),
            ("attention's output", self.hidden, self.q_heads * self.dim),
            ("gate and up" if self.gated else "up", up, self.hidden),
            ("down", self.hidden, self.inner),
        ]


LLAMA = Model("Llama 3.1 8B", 32, 4096, 14336, 32, 8, 128, 128256)
QWEN = Model("Qwen3 0.6B", 28, 1024, 3072, 16, 8, 128, 151936)
DISTILBERT = Model("DistilBERT", 6, 768, 3072, 12, 12, 64, 0, gated=False)
# Bytes of a value: as bf16, and in blocks of 4 bits with an f16 scale for 32.
DTYPES = {"bf16": 2.0, "Q4_0": 18 / 32}


def product(rows: int, outputs: int, cols: int, size: float) -> tuple[float, float, float]:
    """Bytes, operations of tensor cores, operations outside of them."""
    weight, work = outputs * cols * size, 2.0 * rows * outputs * cols
    # f32 activations, their rounded copy, f32 products.
    moved = rows * (cols * (4 + 2 + 2) + outputs * 4)
    if size == 2.0:
        return weight + moved, work, 0
    if rows <= FEW_ROWS:
        return weight + moved, 0, work + 2.0 * outputs * cols
    if rows <= SOME_ROWS:
        return weight + moved, work, 2.0 * outputs * cols
    return weight + 2 * 2.0 * outputs * cols + moved, work, 2.0 * outputs * cols


def attention(model: Model, rows: int, each: int, pairs: float, tokens: float) -> tuple[float, float, float]:
    """Of `pairs` of a query and a token that it sees, over `tokens` that are read (16 bits); `each` rows of each request. Exponentials
    are not counted."""
    moved = tokens * model.kv_heads * model.dim * 2 * 2 + rows * model.q_heads * model.dim * 4 * 2
    work = pairs * model.q_heads * model.dim * 4.0
    tiles = each > FEW_QUERY_ROWS and each * model.q_heads // model.kv_heads >= FRAGMENT
    return (moved, work, 0) if tiles else (moved, 0, work)


def others(model: Model, rows: int) -> tuple[float, float, float]:
    """Norms, rope, cache and what follows products of a layer: f32 rows that are read and written."""
    qkv = (model.q_heads + 2 * model.kv_heads) * model.dim
    up = 2 * model.inner if model.gated else model.inner
    return rows * 4.0 * (4 * model.hidden + 3 * qkv + up + model.inner), 0, 0


def seconds(work: tuple[float, float, float], gpu: str) -> float:
    bandwidth, tensor, plain = GPUS[gpu]
    return max(work[0] / bandwidth, work[1] / tensor + work[2] / plain)


def layer(model: Model, rows: int, each: int, pairs: float, tokens: float, size: float) -> dict[str, tuple[float, float, float]]:
    works = {name: product(rows, outputs, cols, size) for name, outputs, cols in model.products()}
    return works | {"attention": attention(model, rows, each, pairs, tokens), "the rest": others(model, rows)}


def step(model: Model, rows: int, each: int, pairs: float, tokens: float, size: float, gpu: str, heads: int) -> float:
    """Of `rows` rows, `each` of each request, of which `heads` reach the head."""
    one = sum(seconds(work, gpu) for work in layer(model, rows, each, pairs, tokens, size).values())
    head = seconds(product(heads, model.vocab, model.hidden, size), gpu) if model.vocab else 0
    return model.layers * one + head


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    print("A layer of Llama 3.1 8B in bf16, one token for each of 1 and 32 requests behind 4,096 tokens: bytes, operations, and the")
    print("least microseconds on each GPU.\n")
    rows = []
    for batch in (1, 32):
        for name, work in layer(LLAMA, batch, 1, batch * 4096, batch * 4096, 2.0).items():
            times = [f"{1e6 * seconds(work, gpu):,.1f}" for gpu in GPUS]
            rows.append([str(batch), name, f"{work[0] / 1e6:,.1f} MB", f"{(work[1] + work[2]) / 1e9:,.2f} G", *times])
    table(["requests", "kernel", "bytes", "operations", *GPUS], rows)
    print("Tokens a second at most, generating:\n")
    rows = []
    for model in (LLAMA, QWEN):
        for dtype, size in DTYPES.items():
            for context in (512, 4096):
                for batch in (1, 8, 32, 128):
                    tokens = batch * context
                    weights = size * (model.layers * sum(n * k for _, n, k in model.products()) + 2 * model.vocab * model.hidden)
                    cache = tokens * model.layers * model.kv_heads * model.dim * 4
                    needed = weights + cache
                    room = {"T4": 16e9, "A10G": 24e9, "L4": 24e9, "L40S": 48e9, "H100": 80e9}
                    cells = [
                        f"{batch / step(model, batch, 1, tokens, tokens, size, gpu, batch):,.0f}" if needed < 0.9 * room[gpu] else "-"
                        for gpu in GPUS
                    ]
                    rows.append([model.name, dtype, str(context), str(batch), *cells])
    table(["model", "weights", "context", "requests", *GPUS], rows)
    print("Tokens a second at most, reading a prompt of 2,048 tokens (bf16), and texts of 128 tokens a second through DistilBERT, 32 at a")
    print("time:\n")
    rows = []
    for model in (LLAMA, QWEN):
        pairs = 2048 * 2049 / 2
        cells = [f"{2048 / step(model, 2048, 2048, pairs, 2048, 2.0, gpu, 1):,.0f}" for gpu in GPUS]
        if model is LLAMA:
            cells[0] = "-"
        rows.append([f"{model.name}, prompt", *cells])
    pairs = 32 * 128 * 128
    cells = [f"{32 / step(DISTILBERT, 32 * 128, 128, pairs, 32 * 128, 2.0, gpu, 0):,.0f}" for gpu in GPUS]
    rows.append(["DistilBERT, texts", *cells])
    table(["", *GPUS], rows)


main()
