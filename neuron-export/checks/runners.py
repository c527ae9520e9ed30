"""What executes an artifact: XLA on the CPU, ONNX Runtime, TorchScript. Each is made from an entry of the job and gives
`name` (library and version) and `run(inputs)`, where `inputs` maps names to int32 arrays [batch, seq].
"""

import numpy as np
import tensors


class Hlo:
    """A serialized HloModuleProto, compiled and executed by XLA for the CPU.

    jax has no public way to run one. These are the calls of jaxlib 0.10.2, hence the pin in requirements.txt.
    """

    def __init__(self, job, entry):
        import jax
        import jaxlib
        from jax._src import compiler, xla_bridge
        from jax._src.interpreters import mlir
        from jax._src.lib.mlir import ir
        from jaxlib import _jax

        jax.config.update("jax_platforms", "cpu")
        self.name = f"xla-cpu jaxlib {jaxlib.__version__}"
        self.put = jax.device_put
        backend = xla_bridge.get_backend("cpu")
        with open(entry["file"], "rb") as file:
            stablehlo = _jax.mlir.hlo_to_stablehlo(file.read())
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
        devices = _jax.DeviceList(tuple(backend.local_devices()[:1]))
        with mlir.make_ir_context():
            module = ir.Module.parse(stablehlo)
            self.executable = backend.compile_and_load(module, devices, options)
        self.inputs = job["inputs"]
        weights = tensors.read(entry["weights"], entry["parameters"]) if entry.get("weights") else {}
        self.weights = [self.put(np.ascontiguousarray(weights[name])) for name in entry.get("parameters", [])]

    def run(self, inputs):
        arguments = [self.put(inputs[name]) for name in self.inputs]
        return np.asarray(self.executable.execute(arguments + self.weights)[0])


class Onnx:
    """An ONNX model, checked by `onnx.checker` and executed by ONNX Runtime on one thread."""

    KINDS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}

    def __init__(self, job, entry):
        import onnx
        import onnxruntime

        onnx.checker.check_model(entry["file"], full_check=True)
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(entry["file"], options, providers=["CPUExecutionProvider"])
        self.kinds = {one.name: self.KINDS[one.type] for one in self.session.get_inputs()}
        if sorted(self.kinds) != sorted(job["inputs"]):
            raise ValueError(f"the inputs are {sorted(self.kinds)}, the manifest says {sorted(job['inputs'])}")
        self.output = job["output"]

    def run(self, inputs):
        feed = {name: inputs[name].astype(kind) for name, kind in self.kinds.items()}
        return self.session.run([self.output], feed)[0]


class TorchScript:
    """What torchscript.py wrote, executed by `torch.jit` on one thread."""

    def __init__(self, job, entry):
        import torch

        torch.set_num_threads(1)
        self.name = f"torch.jit {torch.__version__.split('+')[0]}"
        self.torch = torch
        self.module = torch.jit.load(entry["file"], map_location="cpu").eval()
        self.inputs = job["inputs"]

    def run(self, inputs):
        with self.torch.no_grad():
            return self.module(*[self.torch.from_numpy(inputs[name]).long() for name in self.inputs]).numpy()


KINDS = {"hlo": Hlo, "onnx": Onnx, "torchscript": TorchScript}
