"""`smollm2`: what transformers answers on the dequantized weights of the demo chat model, its tokenizer and template."""

import gguf
import torch

from . import bpe, decode, gguf_llama
from .case import Case, relative
from .render import render

STEPS = 32
TOP = 20
USER = {"role": "user", "content": "Recommend one manga for a rainy Sunday and say why in one sentence."}
RAW = "The small shop on the corner sold only manga, and every Saturday morning"
JAPANESE = "漫画の第3巻は本日発売です。ご予約は"

# Written for this project: about 300 tokens for the teacher-forced check.
ESSAY = """Every evening at six the lights of the manga shop came on, and the street outside seemed to lean a little closer. The owner, \
Mrs. Tanaka, kept the new volumes near the door and the old ones in the back, where the shelves were high and the paper smelled of dust and \
tea. She knew most of her customers by the stories they followed. The tall student wanted robots and long wars; the nurse from the hospital \
read only cooking comics, two at a time, standing up. On Tuesdays a quiet man came in, asked whether volume 14 had arrived, and left without \
buying anything. It had been three years. "It may never be printed," she told him once, "the author is ill." He nodded and said that he \
would ask again next week.

One winter night the delivery truck was late because of the snow. When the driver finally carried in the boxes, the first one was torn at the \
corner, and through the hole she could see a blue cover that she did not know. She opened the box with a small knife. There were twelve \
copies of volume 14. She put one of them under the counter, wrapped it in brown paper, and wrote a short note on it: "For the man who waits. \
No charge." Then she turned off the lights, locked the door, and walked home slowly through the snow, thinking about how a good story can \
keep a person company for a very long time."""

STRINGS = [
    "", " ", "  ", "   leading spaces", "trailing spaces   ", "a b", "a  b", "a   b    c", "\n", "\n\n", " \n", "\t", "\t\tindent", "\r\n",
    "line one\r\nline two\r\n", "line\n\n\n  three", "Hello, world!", "hello world", "HELLO World", "don't we'll I'm they've you'd it's he'Re",
    "0", "7", "42", "1234567890", "3.14159", "1,000,000.00", "v2.0.1-rc3", "2026-01-31T23:59:59Z", "x=1;y=22", "a1b22c333", "½ ² Ⅷ ٣",
    "def f(x):\n    return x ** 2  # square\n", "fn main() { println!(\"{}\", 1 << 8); }", "<div class=\"a\">&amp;</div>", "{\"key\": [1, 2.5, null]}",
    "SELECT * FROM t WHERE id >= 10;", "https://example.com/a?b=c&d=%20#e", "C:\\Users\\me\\file.txt", "a_b__c ___", "---", "...", "!!!???",
    "日本語", "漫画の第3巻はありますか。", "こんにちは、世界！", "ｆｕｌｌｗｉｄｔｈ　１２３", "カタカナ ｶﾀｶﾅ", "がぎぐ か\u3099", "한국어 中文 العربية",
    "café naïve Ångström", "e\u0301 vs é", "\u00a0nbsp\u200bzero\u3000wide", "🙂", "👍🏽 👨‍👩‍👧‍👦 🇯🇵", "mixed 🙂text 12日本", "\ufeffbom", "tab\tand\x00nul",
    "<|im_start|>user\nhi<|im_end|>\n", "text<|endoftext|>more", " <|im_start|> ", "<|im_start|", "<|IM_START|>", "<repo_name>a/b<file_sep>x",
    "anticonstitutionnellement", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "          x", "supercalifragilistic expialidocious", "\u2028sep\u2029", "no such byte: \x14\x16!",
]

CHATS = [
    ([USER], True),
    ([USER], False),
    ([{"role": "system", "content": "You sell manga."}, USER], True),
    ([USER, {"role": "assistant", "content": "Yotsuba&!"}, {"role": "user", "content": "Thanks <b>\"a lot\"</b> & 'more'"}], True),
    ([{"role": "user", "content": "漫画は\n好きですか？ 🙂"}], True),
    ([{"role": "user", "content": ""}], True),
    ([{"role": "user", "content": "  spaces kept  "}, {"role": "assistant", "content": "x"}], False),
]


def make(out, path):
    case = Case(out, "smollm2", kind="gguf", file="SmolLM2-135M-Instruct.Q4_1.gguf")
    reader = gguf.GGUFReader(path)
    field = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("GGUF.")}
    tokenizer = reference_tokenizer(field)
    template = field["tokenizer.chat_template"]
    tokenizers_and_templates(case, tokenizer, template)

    model, _ = gguf_llama.read(path)
    chat = render(template, [USER], add_generation_prompt=True)["text"]
    generate(case, model, tokenizer, {"raw": RAW, "chat": chat, "japanese": JAPANESE})
    teacher(case, model, tokenizer.encode(ESSAY).ids)
    case.write()


def reference_tokenizer(field):
    """Built explicitly from the vocabulary: single digits, then byte level without a prefix space; control tokens special."""
    assert field["tokenizer.ggml.model"] == "gpt2" and field["tokenizer.ggml.pre"] == "smollm"
    tokens, types = field["tokenizer.ggml.tokens"], field["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    special = [token for token, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
    return bpe.from_vocab({token: i for i, token in enumerate(tokens)}, merges, special, "smollm")


def tokenizers_and_templates(case, tokenizer, template):
    rows = []
    for text in STRINGS:
        ids = tokenizer.encode(text).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        # The vocabulary has no token for some control bytes: they vanish, and `round_trip` says so.
        rows.append({
            "text": text,
            "ids": ids,
            "decoded": decoded,
            "without_special": tokenizer.decode(ids, skip_special_tokens=True),
            "round_trip": decoded == text,
        })
    case.info["tokenizer"] = rows
    case.info["chat_template"] = template
    case.info["chats"] = [
        {"messages": messages, "add_generation_prompt": add, **render(template, messages, add_generation_prompt=add)}
        for messages, add in CHATS
    ]


def generate(case, model, tokenizer, texts):
    rows = []
    for i, (label, text) in enumerate(texts.items()):
        ids = tokenizer.encode(text).ids
        new, margin = decode.greedy(model, ids, STEPS)
        assert margin > 1e-4, f"{label}: a near tie, {margin}"
        best = torch.topk(decode.logits(model, ids)[-1], TOP)
        case.add(f"top_logits.{i}", best.values)
        rows.append({
            "label": label,
            "text": text,
            "ids": ids,
            "greedy": new,
            "greedy_text": tokenizer.decode(new, skip_special_tokens=False),
            "min_margin": round(margin, 6),
            "top_ids": best.indices.tolist(),
        })
        print(label, repr(rows[-1]["greedy_text"]), margin, flush=True)
    case.info["prompts"] = rows


def teacher(case, model, ids):
    """The best id after every position of the text and how far it leads; the fast mode must agree where it leads clearly."""
    logits = decode.logits(model, ids)
    best = torch.topk(logits, 2).values
    margins = best[:, 0] - best[:, 1]
    case.info["teacher"] = {
        "text": ESSAY,
        "ids": ids,
        "top1": logits.argmax(-1).tolist(),
        "clear_positions": int((margins >= 0.5).sum()),
        "loss": round(float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))), 4),
    }
    case.add("teacher.margins", margins)
    # Negative control: with q and k rows left as they are in the file, how often the best id would still agree.
    state = model.state_dict()
    for name, value in state.items():
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            value.copy_(torch.from_numpy(gguf_llama.permute(value.numpy(), heads)))
    wrong = decode.logits(model, ids)
    agree = float((wrong.argmax(-1) == logits.argmax(-1)).float().mean())
    assert agree < 0.9, agree
    case.info["controls"] = {
        "q and k rows not put back: share of equal best ids": round(agree, 3),
        "q and k rows not put back: logits": float(f"{relative(wrong, logits):.2g}"),
    }
