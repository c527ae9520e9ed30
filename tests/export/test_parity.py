"""What an export holds, executed by XLA and ONNX Runtime, against transformers' answers and against Koma's."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil

import pytest
from conftest import GOLDEN, case, koma, manifest

CASES = [
    "distilbert_classify",
    "distilbert_multilabel",
    "distilbert_embed_mean",
    "bert_classify",
    "bert_multilabel",
    "bert_regression",
    "bert_cross",
    "bert_cross_labels",
    "bert_cross_now",
    "bert_cross_old",
    "bert_gelu_tanh",
    "bert_embed_cls",
    "bert_embed_concat",
    "bert_embed_dense",
    "bert_embed_last",
    "bert_embed_max",
    "bert_embed_mean",
    "roberta_classify",
    "roberta_cross",
    "roberta_embed_mean",
    "xlm_roberta_classify",
    "xlm_roberta_cross",
    "xlm_roberta_embed_cls",
]
# One of each family and task, for what does not differ between the others.
FEW = ["distilbert_classify", "bert_cross", "bert_embed_mean", "roberta_classify"]


def verified(folder, *flags):
    """The result of a check that passes."""
    done = koma("verify", folder, "--json", "-", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_transformers(name, export):
    folder = export(name)
    result = verified(folder, "--golden", GOLDEN / name)
    assert result["status"] == "hlo-verified"
    written = manifest(folder)
    rows = len(case(name)["inputs"])
    # The same text in every bucket that takes it.
    scale = written["buckets"][-1]["parity"]["scale"]
    assert written["spread"]["max_abs"] == result["spread"] <= 1e-5 * scale
    for bucket in written["buckets"]:
        found = bucket["parity"]
        assert found["runner"].startswith("xla-cpu jaxlib")
        assert found["reference"].startswith("transformers")
        assert 0 < found["cases"] <= rows
        assert found["max_abs"] <= found["tolerance"]
    assert written["buckets"][-1]["parity"]["cases"] == rows
    onnx = next(one for one in written["portable"] if one["kind"] == "onnx")
    assert onnx["opset"] == 18
    assert onnx["parity"]["runner"].startswith("onnxruntime")
    # Five shapes, none of them a bucket's.
    assert onnx["parity"]["cases"] > rows


@pytest.mark.parametrize("name", FEW)
def test_answers_are_komas_own(name, export):
    folder = export(name, "--weights", "separate")
    result = verified(folder)
    assert result["status"] == "hlo-verified"
    assert manifest(folder)["buckets"][0]["parity"]["reference"].startswith("koma")


@pytest.mark.parametrize("name", FEW)
def test_bf16_is_near_and_has_the_same_best(name, export):
    folder = export(name, "--precision", "bf16", "--weights", "separate")
    verified(folder, "--golden", GOLDEN / name)
    for bucket in manifest(folder)["buckets"]:
        # It is bf16: f32 would be nearer.
        assert bucket["parity"]["max_abs"] > 1e-4
        assert bucket["parity"]["argmax_agreement"] in (None, 1.0)


def tensor_file(model, change):
    """Rewrites the tensors of a model by `change(header, data)`, which works on names and bytes."""
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    change({k: v for k, v in header.items() if k != "__metadata__"}, memoryview(raw)[8 + size :])
    path.write_bytes(raw)


def rolled_bias(model):
    def roll(header, data):
        name = next(name for name in header if name.endswith("classifier.bias") and "pre" not in name)
        begin, end = header[name]["data_offsets"]
        data[begin:end] = bytes(data[begin + 2 : end]) + bytes(data[begin : begin + 2])

    tensor_file(model, roll)


def swapped_layers(model):
    def swap(header, data):
        for name, entry in header.items():
            if ".layer.0." in name:
                (a, b), (c, d) = entry["data_offsets"], header[name.replace(".layer.0.", ".layer.1.")]["data_offsets"]
                data[a:b], data[c:d] = bytes(data[c:d]), bytes(data[a:b])

    tensor_file(model, swap)


def tanh_gelu(model):
    path = model / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["activation"] == "gelu"
    path.write_text(json.dumps({**config, "activation": "gelu_new"}), encoding="utf-8")


@pytest.mark.parametrize("change", [rolled_bias, swapped_layers, tanh_gelu])
def test_a_wrong_detail_fails(change, export):
    name = "distilbert_classify"
    folder = export(name, change=change)
    done = koma("verify", folder, "--golden", GOLDEN / name)
    assert done.returncode == 1, done.stdout
    assert "does not agree" in done.stderr
    assert manifest(folder)["status"] == "exported"
    # All buckets and ONNX: nothing passes by accident.
    rows = [line for line in done.stdout.splitlines() if ".pb" in line or ".onnx" in line]
    assert sum("FAILS" in line for line in rows) == 5
    # Against the changed model itself it is right.
    verified(folder)


def hashed(path):
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def look_at_the_mask(folder, hlo, onnx_op):
    """Rewrites how the files of an export ask whether a mask is not 0, with checksums that are right again."""
    import onnx

    written = manifest(folder)
    for bucket in written["buckets"]:
        path = folder / bucket["hlo"]["file"]
        data = path.read_bytes()
        # Field 63 of an instruction, of 2 bytes: the direction of a comparison.
        assert data.count(b"\xfa\x03\x02NE") == 1
        path.write_bytes(data.replace(b"\xfa\x03\x02NE", b"\xfa\x03\x02" + hlo))
        bucket["hlo"].update(hashed(path))
    path = folder / written["portable"][0]["file"]
    model = onnx.load(path)
    [equal] = [node for node in model.graph.node if node.op_type == "Equal"]
    equal.op_type = onnx_op
    path.write_bytes(model.SerializeToString())
    written["portable"][0].update(hashed(path))
    (folder / "manifest.json").write_text(json.dumps(written), encoding="utf-8")


@pytest.mark.parametrize("name", ["bert_classify", "distilbert_classify"])
def test_an_ignored_mask_fails(name, export):
    folder = export(name)
    look_at_the_mask(folder, b"NE", "Equal")
    assert verified(folder, "--golden", GOLDEN / name)["status"] == "hlo-verified"
    # "is it at least 0" and "is it not below 0" are true of every mask.
    look_at_the_mask(folder, b"GE", "Less")
    done = koma("verify", folder, "--golden", GOLDEN / name, "--json", "-")
    assert done.returncode == 1 and "does not agree" in done.stderr
    assert manifest(folder)["status"] == "exported"
    for one in json.loads(done.stdout)["checked"]:
        assert "is off by" in one["failure"], one
        # What lies under the mask is seen.
        assert one["masked_max_abs"] > 1e-2, one


@pytest.mark.parametrize("part", ["pb", "onnx", "safetensors"])
def test_a_tampered_export_is_refused(part, export):
    folder = export("distilbert_classify", "--weights", "separate")
    path = next(folder.glob(f"*.{part}"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = koma("verify", folder)
    assert done.returncode == 1
    assert path.name in done.stderr and "sha256" in done.stderr, done.stderr


def missing_tensor(model):
    path = model / "model.safetensors"
    name = b"transformer.layer.1.ffn.lin2.weight"
    data = path.read_bytes()
    assert data.count(name) == 1
    path.write_bytes(data.replace(name, name[:-1] + b"X"))


@pytest.mark.parametrize(
    ("name", "change", "flags", "words"),
    [
        ("modernbert_classify", None, [], "ModernBertForSequenceClassification` cannot be exported"),
        ("bert_tokens", None, [], "BertForTokenClassification` cannot be exported"),
        ("distilbert_classify", None, ["--seq", "32,65"], "seq 65: the model takes texts of at most 64 tokens"),
        ("distilbert_classify", missing_tensor, [], "layer.1.ffn.lin2.weight"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing_behind(name, change, flags, words, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / name / "model", model)
    if change:
        change(model)
    done = koma(model, "--out", tmp_path / "out", *flags)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_model_is_refused(export, tmp_path):
    folder = export("distilbert_classify")
    other = tmp_path / "other"
    shutil.copytree(GOLDEN / "distilbert_multilabel" / "model", other)
    done = koma("verify", folder, "--model", other)
    assert done.returncode == 1
    assert "another checkpoint" in done.stderr


def test_an_export_alone_needs_its_model(export, tmp_path):
    folder = export("distilbert_classify")
    alone = pathlib.Path(shutil.copytree(folder, tmp_path / "elsewhere" / "neuron"))
    done = koma("verify", alone)
    assert done.returncode == 2
    assert "--model" in done.stderr
    verified(alone, "--model", tmp_path / "model")
