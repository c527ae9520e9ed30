"""A Hugging Face folder to GGUF with llama.cpp's own converter: convert.py LLAMA_CPP_TREE FOLDER OUT.gguf TYPE.

The converter knows a pre-tokenizer by a digest of what the whole tokenizer gives; the makers here cut or copy SmolLM2's, so
it is named instead.
"""

import sys
from pathlib import Path


def main(tree: Path, folder: str, out: str, kind: str) -> None:
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import convert_hf_to_gguf
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", kind]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
