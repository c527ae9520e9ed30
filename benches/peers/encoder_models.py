"""Files of the encoders for every peer: encoder_models.py NAME EMBED OUT

NAME: minilm (the cross-encoder shape of EMBED, an all-MiniLM-L6-v2 folder, with its weights and a random head) or distilbert
(DistilBERT-base with random weights and EMBED's tokenizer, which has the same vocabulary). In OUT:

  hf                                what Koma loads, weights in f32
  f32.onnx, int8.onnx               ONNX Runtime: as exported, and quantized dynamically with a scale for each output
  f32-fused.onnx, int8-fused.onnx   the same after its transformer optimizer
  openvino-int8                     OpenVINO: quantized by NNCF, calibrated on random ids
  ctranslate2                       CTranslate2, which chooses the precision when it loads
"""

import shutil
import sys
from pathlib import Path

import numpy
import torch
from transformers import AutoModel, BertConfig, BertForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

LABELS = 12
#: Ids of random calibration texts.
IDS = range(1000, 20000)


def make(name: str, embed: Path) -> torch.nn.Module:
    """The model with its head, its random weights the same every time."""
    torch.manual_seed(0)
    if name == "distilbert":
        config = DistilBertConfig(num_labels=LABELS, attn_implementation="eager")
        return DistilBertForSequenceClassification(config).eval()
    config = BertConfig.from_pretrained(embed)
    config.num_labels, config._attn_implementation = 1, "eager"
    model = BertForSequenceClassification(config).eval()
    model.bert.load_state_dict(AutoModel.from_pretrained(embed).state_dict(), strict=False)
    return model


def to_onnx(model: torch.nn.Module, names: list[str], file: Path) -> None:
    """With free sizes of batch and text."""

    class Logits(torch.nn.Module):
        """The exporter calls with places; the model wants names, and a mask that it need not make: that cannot be traced."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            named = dict(zip(names, values))
            seen = named["attention_mask"].unsqueeze(1).unsqueeze(2).to(torch.float32)
            named["attention_mask"] = (1.0 - seen) * -10000.0
            return self.model(**named).logits

    ids = torch.randint(IDS.start, IDS.stop, (2, 16))
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}}
    inputs = tuple(values[name] for name in names)
    options = {"input_names": names, "output_names": ["logits"], "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(Logits(), inputs, str(file), **options)


def to_onnxruntime(config, out: Path) -> None:
    """The fused form, and both in int8."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    heads = getattr(config, "num_attention_heads", None) or config.n_heads
    fused = optimize_model(str(out / "f32.onnx"), model_type="bert", num_heads=heads, hidden_size=config.hidden_size)
    fused.save_model_to_file(str(out / "f32-fused.onnx"))
    # It knows no types behind the fused operations.
    options = {"per_channel": True, "weight_type": QuantType.QInt8, "extra_options": {"DefaultTensorType": TensorProto.FLOAT}}
    for kind in ("", "-fused"):
        quantize_dynamic(out / f"f32{kind}.onnx", out / f"int8{kind}.onnx", **options)


def to_openvino(names: list[str], out: Path) -> None:
    """Static int8 for transformers, as NNCF recommends it."""
    import nncf
    import openvino

    rng = numpy.random.default_rng(0)

    def sample(_: int) -> dict[str, numpy.ndarray]:
        ids = rng.integers(IDS.start, IDS.stop, (1, 64))
        all = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
        return {name: all[name] for name in names}

    model = openvino.Core().read_model(out / "f32.onnx")
    data = nncf.Dataset(range(64), sample)
    quantized = nncf.quantize(model, data, subset_size=64, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, out / "openvino-int8" / "model.xml")


def main(name: str, embed: Path, out: Path) -> None:
    folder = out / "hf"
    folder.mkdir(parents=True)
    model = make(name, embed)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(embed / file, folder / file)
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if name == "minilm" else [])
    to_onnx(model, names, out / "f32.onnx")
    to_onnxruntime(model.config, out)
    to_openvino(names, out)
    try:
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder)).convert(str(out / "ctranslate2"))
    except Exception as error:  # its table names the reason, and the others' files stay
        print(f"CTranslate2: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
