"""An encoder in OpenVINO: encode_openvino.py MODEL PRECISION THREADS. MODEL: .onnx or .xml; PRECISION: f32 or bf16, of what is not int8."""

import sys

import openvino
from encoding import padded, serve


def load(file: str, precision: str, threads: int):
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(file, "CPU", settings)
    names = [one.get_any_name() for one in model.inputs]
    request = model.create_infer_request()

    def run(texts):
        values = padded(texts)
        request.infer({name: values[name] for name in names})

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], sys.argv[2], int(sys.argv[3])))
