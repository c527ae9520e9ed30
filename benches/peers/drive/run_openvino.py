"""OpenVINO GenAI, continuous batching: run_openvino.py MODEL VOCAB THREADS. MODEL is a .gguf file or a folder of OpenVINO files."""

import sys

import numpy
import openvino
import openvino_genai
from protocol import serve


def load(model: str, threads: int):
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2  # GiB
    scheduler.max_num_batched_tokens = 2048
    scheduler.max_num_seqs = 32
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def run(prompts, output):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = output
        config.ignore_eos = True
        config.do_sample = False
        ids = [openvino.Tensor(numpy.array([prompt], dtype="int64")) for prompt in prompts]
        results = pipeline.generate(ids, [config] * len(ids))
        return sum(len(result.m_generation_ids[0]) for result in results)

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], int(sys.argv[3])), int(sys.argv[2]))
