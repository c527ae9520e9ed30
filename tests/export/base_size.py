"""Makes a model of DistilBERT's full size with random weights, and transformers' answers: `python base_size.py DIR`.

For the check at full size, which is too large for `scripts/test` and needs PyTorch and transformers
(neuron-export/checks/requirements-torchscript.txt):

    python tests/export/base_size.py /tmp/base
    koma export /tmp/base/model --out /tmp/base/model/neuron --batch 1,4 --seq 32,128
    koma export verify /tmp/base/model/neuron --golden /tmp/base

`DIR/tanh` is the same model with the tanh form of GELU: exported, and verified against the same values, it must fail.
"""

import json
import pathlib
import platform
import shutil
import sys
from importlib.metadata import version

import torch
from safetensors.torch import save_file
from transformers import DistilBertConfig, DistilBertForSequenceClassification

TOKENIZER = pathlib.Path(__file__).resolve().parents[1] / "golden" / "distilbert_classify" / "model"
LENGTHS = [2, 5, 17, 31, 32, 64, 100, 128]
LABELS = 5


def build():
    """Random weights, spread so that the logits are: the usual initialisation gives nearly equal ones."""
    config = DistilBertConfig(num_labels=LABELS, attn_implementation="eager")
    model = DistilBertForSequenceClassification(config).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.15 * noise)
            elif "embeddings" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(0.05 * noise)
    return model


def write(model, folder, **changes):
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(TOKENIZER / name, folder / name)


def main():
    out = pathlib.Path(sys.argv[1])
    torch.set_num_threads(1)
    model = build()
    write(model, out / "model")
    write(model, out / "tanh", activation="gelu_new")
    rng = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, model.config.vocab_size, (1, length), generator=rng) for length in LENGTHS]
    with torch.no_grad():
        logits = torch.cat([model(input_ids=ids).logits for ids in rows])
    save_file({"logits": logits}, out / "expected.safetensors")
    libraries = {name: version(name) for name in ["torch", "transformers"]}
    case = {
        "inputs": [{"ids": ids[0].tolist(), "type_ids": [0] * ids.shape[1]} for ids in rows],
        "made_with": {"python": platform.python_version(), **libraries},
    }
    (out / "case.json").write_text(json.dumps(case), encoding="utf-8")


if __name__ == "__main__":
    main()
