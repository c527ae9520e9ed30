"""vLLM (CPU build): run_vllm.py FOLDER VOCAB MAX_LEN. The threads are those of VLLM_CPU_OMP_THREADS_BIND."""

import sys

from protocol import serve
from vllm import LLM, SamplingParams


def load(folder: str, max_len: int):
    model = LLM(folder, dtype="bfloat16", max_model_len=max_len, max_num_seqs=32, enable_prefix_caching=False)

    def run(prompts, output):
        params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        results = model.generate(requests, params, use_tqdm=False)
        return sum(len(result.outputs[0].token_ids) for result in results)

    return run


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], int(sys.argv[3])), int(sys.argv[2]))
