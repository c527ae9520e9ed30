"""`minilm`: sentence-transformers' embeddings of 50 Japanese and English sentences by the demo embedder."""

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from .case import Case

ENGLISH = [
    "a", "manga", "Where is my order?", "I want to return a damaged book.", "Do you ship to Hokkaido?",
    "The third volume of the series is out of stock until next Friday.", "Please cancel order #20931 and refund my card.",
    "Is there a discount for buying all 23 volumes at once?", "A quiet story about two sisters who run a bathhouse.",
    "Robots, space pirates and a cat: recommend me something loud!", "Which edition has the color pages?",
    "I forgot my password and the reset e-mail never arrives.", "My parcel says 'delivered', but nothing is here.",
    "Can I change the address of an order that I placed yesterday?", "The spine of volume 7 was torn.",
    "What is the difference between shonen and seinen?", "Gift wrapping, please; it is for my niece's birthday.",
    "HELLO??? IS ANYBODY THERE", "Café naïve résumé Ångström — “quotes” & <tags>", "https://example.com/item?id=42&lang=ja",
    "x = [i ** 2 for i in range(10)]", "1234567890 3.14159 1,000,000", "thx u r gr8 lol", "It's the author's first one-shot, isn't it?",
    "[CLS] and [MASK] in the text",
]
JAPANESE = [
    "本", "漫画", "注文した本はどこですか？", "第3巻の在庫はありますか。", "返品したいのですが、送料はかかりますか？",
    "予約をキャンセルしてください。", "配送先の住所を変更したいです。", "新刊の発売日を教えてください。", "ポイントはいつ付きますか？",
    "領収書を発行してもらえますか。", "おすすめの少年漫画を教えて！", "全巻セットを買うと割引がありますか？", "ページが破れていました。",
    "パスワードを忘れました。", "北海道まで何日で届きますか。", "ギフト包装をお願いします。姪の誕生日です。",
    "この作品の作者の他の漫画も読みたいです。", "支払い方法はクレジットカードだけですか。", "電子書籍版はありますか？ Kindle で読めますか。",
    "ﾊﾝｶｸ ｶﾅ と ＦＵＬＬ　ＷＩＤＴＨ １２３",
]
STORY = "Every evening at six the lights of the manga shop came on, and the street outside seemed to lean a little closer. "
TALE = "雨の日曜日、小さな漫画の店で古い本を読みながら、彼女は静かに電車の音を聞いていた。"
LONG = [STORY * 3, STORY * 9, STORY * 12, TALE * 4, TALE * 20]


def make(out, folder):
    case = Case(out, "minilm", kind="embedder", pooling="mean", normalize=True, limit=256)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}
    )
    assert model.max_seq_length == 256
    rows, vectors = [], []
    for text in ENGLISH + JAPANESE + LONG:
        ids = tokenizer.encode(text).ids
        cut = ids if len(ids) <= 256 else ids[:255] + ids[-1:]
        # `truncated` says that the text is longer than the model reads and is to be sent with truncation on.
        rows.append({"text": text, "ids": cut, "truncated": len(ids) > 256})
        again = model.preprocess([text])["input_ids"][0].tolist()
        assert again == cut, (text, again, cut)
        vectors.append(model.encode([text], batch_size=1, convert_to_tensor=True, show_progress_bar=False)[0])
    embeddings = torch.stack(vectors)
    lengths = sorted(len(row["ids"]) for row in rows)
    assert len(rows) == 50 and lengths[0] == 3 and lengths[-1] == 256, (len(rows), lengths)
    case.info["inputs"] = rows
    case.add("embeddings", embeddings)
    # Two texts of one language that say different things: how near another sentence's vector comes.
    near = (embeddings @ embeddings.T).fill_diagonal_(-1).max()
    case.info["controls"] = {"cosine of the two most alike sentences": round(float(near), 4)}
    case.write()
