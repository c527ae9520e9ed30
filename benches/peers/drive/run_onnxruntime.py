"""ONNX Runtime GenAI: run_onnxruntime.py FOLDER VOCAB THREADS. A batch is one padded batch; all prompts are equally long."""

import json
import sys
from pathlib import Path

import numpy
import onnxruntime_genai
from protocol import serve


def load(folder: str, threads: int):
    """The number of threads is in the folder's own configuration."""
    file = Path(folder) / "genai_config.json"
    config = onnxruntime_genai.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    window = json.loads(file.read_text())["search"]["max_length"]

    def run(prompts, output):
        length = len(prompts[0]) + output
        if length > window:
            raise ValueError(f"{length} tokens are more than the file's limit of {window}")
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False, past_present_share_buffer=True
        )
        generator = onnxruntime_genai.Generator(model, params)
        generator.append_tokens(numpy.array(prompts, dtype="int32"))
        steps = 0
        while not generator.is_done():
            generator.generate_next_token()
            steps += 1
        return steps * len(prompts)

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], int(sys.argv[3])), int(sys.argv[2]))
