"""`koma run`, `koma models`, `koma completions`, `koma man`: the answers are the server's, the errors clear."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tarfile

import pytest
from conftest import ROOT, Server, free_port

KOMA = os.environ["KOMA_BIN"]
MODELS = pathlib.Path(os.environ["KOMA_TEST_MODELS"])
SOURCES = {
    "chat": f"chat={MODELS / 'chat.gguf'}",
    "embed": f"embed={MODELS / 'embed'}",
    "intent": "intent=tests/models/intent",
    "rerank": "rerank=tests/models/rerank",
}
TEXTS = ["Where is my order?", "I want my money back, 漢字", "x " * 40]
CHANGING = ("id", "created")
# As the server's encoders are.
EXACT = ("--dtype", "f32")


def koma(*arguments: str, stdin: str = "", code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [KOMA, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | changes,
        cwd=ROOT,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def same(ours: dict, servers: dict) -> None:
    for reply in (ours, servers):
        for key in CHANGING:
            reply.pop(key, None)
        # How much of a prompt was in the cache depends on what the server was asked before.
        reply.get("usage", {}).pop("prompt_tokens_details", None)
    assert ours == servers


@pytest.mark.parametrize(
    ("task", "model", "arguments", "route", "body"),
    [
        ("classify", "intent", TEXTS, "/classify", {"input": TEXTS}),
        ("classify", "intent", ["--raw", TEXTS[0]], "/classify", {"input": TEXTS[:1], "raw_scores": True}),
        ("embed", "embed", TEXTS, "/v1/embeddings", {"input": TEXTS}),
        ("rerank", "rerank", TEXTS, "/v1/rerank", {"query": TEXTS[0], "documents": TEXTS[1:]}),
        (
            "rerank",
            "rerank",
            ["--top-n", "1", *TEXTS],
            "/v1/rerank",
            {"query": TEXTS[0], "documents": TEXTS[1:], "top_n": 1},
        ),
        (
            "complete",
            "chat",
            ["--max-tokens", "8", "--temperature", "0.7", "--seed", "3", "Once", "The best"],
            "/v1/completions",
            {"prompt": ["Once", "The best"], "max_tokens": 8, "temperature": 0.7, "seed": 3},
        ),
    ],
)
def test_json_is_the_servers_answer(
    server: Server, task: str, model: str, arguments: list[str], route: str, body: dict
) -> None:
    exact = () if model == "chat" else EXACT
    done = koma("run", task, SOURCES[model], "--json", *exact, *arguments)
    reply = server.post(route, {"model": model} | body)
    assert reply.status == 200, reply.body
    same(json.loads(done.stdout), reply.json())


def test_people_get_the_same_answers_as_text(server: Server) -> None:
    best = server.post("/classify", {"model": "intent", "input": TEXTS[:1]}).json()["data"][0]
    rows = koma("run", "classify", *EXACT, SOURCES["intent"], TEXTS[0]).stdout.splitlines()
    assert len(rows) == best["num_classes"] and rows[0].split()[1] == best["label"]
    assert rows[0].split()[0] == f"{max(best['probs']):.4f}"

    lines = "\n".join(TEXTS[:2]) + "\n\n"
    vectors = koma("run", "embed", *EXACT, SOURCES["embed"], "-", "--lines", stdin=lines).stdout.splitlines()
    expected = server.post("/v1/embeddings", {"model": "embed", "input": TEXTS[:2]}).json()["data"]
    assert [[float(x) for x in line.split()] for line in vectors] == [e["embedding"] for e in expected]

    ranked = koma("run", "rerank", *EXACT, SOURCES["rerank"], "a query", "-", "--lines", stdin=lines).stdout.splitlines()
    results = server.post("/v1/rerank", {"model": "rerank", "query": "a query", "documents": TEXTS[:2]}).json()["results"]
    assert [int(line.split()[1]) for line in ranked] == [r["index"] for r in results]

    prompt = "Once upon a time\nthere was"
    options = {"max_tokens": 12, "temperature": 0}
    text = server.post("/v1/completions", {"model": "chat", "prompt": prompt} | options).json()["choices"][0]["text"]
    done = koma("run", "complete", SOURCES["chat"], "-", "--max-tokens", "12", "--temperature", "0", stdin=prompt + "\n")
    assert done.stdout == text + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "classify", SOURCES["chat"], "x"], 1, "serves generation (koma run complete, koma chat)"),
        (["run", "rerank", SOURCES["embed"], "q", "d"], 1, "does not serve reranking; it serves embeddings (koma run embed)"),
        (["run", "complete", SOURCES["rerank"], "x"], 1, "does not serve generation; it serves reranking"),
        (["run", "embed", SOURCES["intent"], "-"], 1, "a text is empty"),
        (["run", "embed", SOURCES["embed"], "-", "--lines"], 1, "standard input holds no text"),
        (["run", "embed", SOURCES["embed"], "x " * 600], 1, "maximum context length"),
        (["run", "rerank", SOURCES["rerank"], "query"], 2, "documents"),
        (["run", "embed", SOURCES["embed"], ""], 2, "a TEXT is empty"),
        (["run", "embed", SOURCES["embed"], "-", "-"], 2, "only once"),
        (["run", "embed", SOURCES["embed"], "x", "--lines"], 2, "--lines"),
        (["run", "embed", SOURCES["embed"]], 2, "TEXT"),
        (["run", "embed", "tests/models/none", "x"], 2, "there is no such folder or file"),
        (["run", "sing", SOURCES["embed"], "x"], 2, "sing"),
        (["run", "complete", SOURCES["chat"], "x", "--top-p", "0"], 2, "--top-p: must be above 0"),
        (["run", "classify", SOURCES["intent"], "x", "--aggregation", "max"], 1, "serves token classification"),
        (["run", "classify", "tests/golden/bert_tokens/model", "x", "--aggregation", "best"], 1, "aggregation"),
        (["models", "--url", "localhost:8080"], 2, "--url: `localhost:8080` is not possible"),
        (["completions", "csh"], 2, "bash"),
        (["man", "sever"], 2, "no command `sever`"),
    ],
)
def test_wrong_input_is_said(arguments: list[str], code: int, message: str) -> None:
    done = koma(*arguments, code=code)
    assert message in done.stderr, done.stderr
    assert done.stdout == "" and "panicked" not in done.stderr


@pytest.mark.parametrize("folder", ["bert_tokens", "roberta_tokens"])
def test_every_strategy_finds_the_pipeline_s_entities(folder: str) -> None:
    golden = json.loads((ROOT / "tests/golden" / folder / "case.json").read_text(encoding="utf-8"))
    model = str(ROOT / "tests/golden" / folder / "model")
    asked = [(i, row["text"]) for i, row in enumerate(golden["inputs"]) if row["text"].strip()]
    texts = [text for _, text in asked]
    answers = []
    assert golden["strategies"] == ["none", "simple", "first", "average", "max"]
    for strategy in golden["strategies"]:
        options = ["--dtype", "f32", "--aggregation", strategy]
        reply = json.loads(koma("run", "classify", model, *options, "--json", "--", *texts).stdout)
        found = [entry["entities"] for entry in reply["data"]]
        assert all(0 < entity["score"] <= 1 for entities in found for entity in entities)
        for (i, _), entities in zip(asked, found, strict=True):
            want = golden["entities"][strategy][i]
            assert [{k: v for k, v in entity.items() if k != "score"} for entity in entities] == want, strategy
        answers.append(found)

        first = koma("run", "classify", model, *options, "--", texts[0]).stdout.splitlines()
        label = "entity" if strategy == "none" else "entity_group"
        words = [[f"{e['score']:.4f}", e[label], f"{e['start']}..{e['end']}", *e["word"].split()] for e in found[0]]
        assert [line.split() for line in first] == words
    assert all(a != b for i, a in enumerate(answers) for b in answers[:i]), "each strategy finds something else"
    usual = json.loads(koma("run", "classify", model, "--dtype", "f32", "--json", "--", *texts).stdout)
    assert [entry["entities"] for entry in usual["data"]] == answers[0]


def test_long_texts_are_cut_when_asked(server: Server) -> None:
    text = "order " * 600
    done = koma("run", "embed", *EXACT, SOURCES["embed"], "--truncate", "--json", text)
    same(json.loads(done.stdout), server.post("/v1/embeddings", {"model": "embed", "input": [text], "truncate": True}).json())


def test_models_of_a_server_and_of_the_caches(server: Server, tmp_path: pathlib.Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--owner--intent"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for file in (ROOT / "tests/models/intent").iterdir():
        (repo / "snapshots" / commit / file.name).symlink_to(file)
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(ROOT / "tests/models/intent", "model")
    places = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": "",
        "HUGGINGFACE_HUB_CACHE": "",
        "KOMA_DATA_DIR": "",
        "XDG_CACHE_HOME": str(tmp_path / "caches"),
        "NO_PROXY": "*",
    }
    koma("run", "classify", str(archive), TEXTS[0], **places)

    url = f"http://127.0.0.1:{server.port}"
    found = json.loads(koma("models", "--url", url, "--json", **places).stdout)
    assert [(m["id"], m["koma"]["state"], m["load"]["running"]) for m in found["server"]["models"]] == [
        (name, "ready", 0) for name in SOURCES
    ]
    folder, data = found["cached"]
    [unpacked] = data["models"]
    assert (unpacked["source"], unpacked["from"], unpacked["origins"]) == (str(archive), "archive", [str(archive)])
    assert (unpacked["problem"], data["others"]) == (None, [])
    [model] = folder["models"]
    assert unpacked["bytes"] == model["bytes"]
    assert (model["source"], model["refs"], model["commit"]) == ("owner/intent", ["main"], commit)
    assert model["architecture"] == "DistilBertForSequenceClassification" and model["problem"] is None
    assert model["bytes"] == sum(f.stat().st_size for f in (ROOT / "tests/models/intent").iterdir())

    text = koma("models", "--url", url + "/v1/", **places).stdout
    for name in [*SOURCES, "owner/intent", "main 01234567", str(tmp_path / "hub"), str(archive)]:
        assert name in text
    assert koma("models", **places).stdout.count("ready") == 0, "no server is asked without --url"
    dead = f"http://127.0.0.1:{free_port()}"
    assert dead in koma("models", "--url", dead, code=1, **places).stderr


def test_completions_parse_and_the_manual_has_every_page(tmp_path: pathlib.Path) -> None:
    commands = ["serve", "chat", "run", "models", "bench", "completions", "man"]
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"]:
        script = koma("completions", shell).stdout
        assert all(command in script for command in commands), shell
    script = koma("completions", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    control = subprocess.run(["bash", "-n"], input=script + "\nif", text=True, capture_output=True, check=False)
    assert control.returncode != 0
    words = 'COMP_WORDS=(koma ru); COMP_CWORD=1; _koma koma ru koma; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash"], input=f"{script}\n{words}", text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["run"]

    koma("man", "--dir", str(tmp_path / "man1"))
    pages = {path.name for path in (tmp_path / "man1").iterdir()}
    assert {f"koma-{command}.1" for command in commands} | {"koma.1", "koma-run-classify.1"} <= pages
    assert koma("man", "run", "classify").stdout == (tmp_path / "man1" / "koma-run-classify.1").read_text()
