"""Writes the golden fixtures under tests/golden: tiny models, inputs and what the reference libraries answer.

    python -m venv .venv-golden && .venv-golden/bin/pip install -r scripts/requirements-golden.txt
    .venv-golden/bin/python scripts/golden.py --chat SmolLM2.gguf --embed MINILM_DIR --out tests/golden [--only NAME ...]

Rule: fixtures are evidence. They are made once, from the reference libraries alone, and are never made again
so that a failing test passes. The formats are in tests/golden/README.md.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def groups():
    """Name -> function(out, args). A group writes one or more folders; its cases can be chosen by name too."""
    from golden import blocks, broken, decoders, embedders, encoders, entities, experts, families, gguf_experts
    from golden import llama, minilm, pieces, poolings, quantized, quants, smollm2, templates, turns, vocab_txt

    table = {}
    for name in vocab_txt.CONFIGS:
        table[name] = lambda a, n=name: vocab_txt.make(a.out, n)
    for module in [llama, decoders, encoders, embedders, experts, families, poolings, entities, quantized]:
        table.update({name: lambda a, m=module, n=name: m.make(a.out, n) for name in module.VARIANTS})
    table["gemma3_pictures"] = lambda a: decoders.make_pictures(a.out)
    table["gguf_rope_freqs"] = lambda a: decoders.make_rope_freqs(a.out)
    table["gguf_experts"] = lambda a: gguf_experts.make(a.out)
    table["gguf_experts_k"] = lambda a: gguf_experts.make_k(a.out)
    table["gguf_experts_apart"] = lambda a: gguf_experts.make_apart(a.out)
    table["gguf_blocks"] = lambda a: blocks.make(a.out)
    table["gguf_types"] = lambda a: quants.make(a.out)
    table["pieces"] = lambda a: pieces.make(a.out)
    table["turns"] = lambda a: turns.make(a.out)
    table["smollm2"] = lambda a: smollm2.make(a.out, need(a.chat, "--chat"))
    table["minilm"] = lambda a: minilm.make(a.out, need(a.embed, "--embed"))
    table["chat_templates"] = lambda a: templates.make(a.out)
    table["bad"] = lambda a: broken.make(a.out)
    return table


def need(path, flag):
    if path is None or not path.exists():
        sys.exit(f"golden.py: this case needs {flag} with a path that exists, not {path}")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chat", type=Path, metavar="FILE.gguf", help="SmolLM2-135M-Instruct Q4_1")
    parser.add_argument("--embed", type=Path, metavar="DIR", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True, help="tests/golden")
    parser.add_argument("--only", action="append", metavar="NAME", help="one case; may be given again")
    args = parser.parse_args()

    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)

    table = groups()
    chosen = args.only or list(table)
    unknown = [name for name in chosen if name not in table]
    if unknown:
        sys.exit(f"golden.py: unknown case {', '.join(unknown)}; known: {', '.join(table)}")
    for name in chosen:
        start = time.monotonic()
        table[name](args)
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
