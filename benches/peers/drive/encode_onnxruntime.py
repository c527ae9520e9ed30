"""An encoder in ONNX Runtime: encode_onnxruntime.py MODEL.onnx THREADS"""

import sys

import onnxruntime
from encoding import padded, serve


def load(file: str, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    # The optimizer narrows some inputs.
    types = {one.name: "int32" if one.type == "tensor(int32)" else "int64" for one in session.get_inputs()}

    def run(texts):
        values = padded(texts)
        session.run(None, {name: values[name].astype(kind, copy=False) for name, kind in types.items()})

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], int(sys.argv[2])))
