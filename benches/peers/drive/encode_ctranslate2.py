"""An encoder's layers in CTranslate2, which has no heads: encode_ctranslate2.py FOLDER PRECISION THREADS"""

import sys

import ctranslate2
from encoding import serve


def load(folder: str, precision: str, threads: int):
    encoder = ctranslate2.Encoder(folder, device="cpu", compute_type=precision, intra_threads=threads)

    def run(texts):
        encoder.forward_batch(texts)

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], sys.argv[2], int(sys.argv[3])))
