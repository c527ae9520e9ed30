"""Families of search queries (by title, by theme) and of product texts (notation: `grammar.py`).

More slots here: `{tell}` a phrase of the theme, `{n}` volumes, `{y}` a price, `{a}` an author.
"""

FAMILIES: dict[str, dict[str, str]] = {
    "title_query": {
        "ja": """
{t}
{t} (漫画|マンガ|コミック)
{t}を<買いたい/買いたいです/購入したいのですが>
{t}{v}を探して<る/います/おります>
{t}という(漫画|作品)(は|について)
{t} (全巻|セット)
(漫画|本)の{t}の(商品ページ|ページ)
{t}って(どんな話|どんな漫画|何の話)？
{t}の(あらすじ|内容|紹介)が<知りたい/知りたいです/知りたく存じます>
{v} {t}
(この前|前に)見た{t}をもう一度(見たい|開きたい)
(タイトル|題名)は{t}(だと思う|です|のはず)
{t}を(見せて|表示して|出して)<//ください>
{t}の(作者|著者)は(誰|どなた)？
""",
        "en": """
{t}
{t} (manga|comic|book)
<i want/i would like> to buy {t}
(looking|searching) for {t}( {v}|)
(a|the) manga (called|named|titled) {t}
{t} (full set|all volumes)
(product|item) page (of|for) {t}
what is {t} about?
(summary|plot|story) of {t}
{v} of {t}
show me {t}( please|)
who (wrote|is the author of) {t}?
(open|find|search) {t}
i think (the title|it) (is|was) {t}
""",
    },
    "theme_query": {
        "ja": """
{g} (漫画|マンガ|コミック)
{g}の(漫画|作品|本)
{g} おすすめ
{g}が(テーマ|題材)の(漫画|作品)を探して<る/います/おります>
{g}(系|もの)の(マンガ|コミック)を<読みたい/読みたいです/拝見したいのですが>
(面白い|人気の|新しい){g}の(シリーズ|作品)
{g}についての(漫画|話|物語)<ある？/はありますか？/はございますか？>
{g}(好き|ファン)に(おすすめ|ぴったり)の(一冊|本)
(どんな|何か){g}の(作品|漫画)が<ある？/ありますか？/ございますか？>
(娘|息子|友達)が{g}に(夢中|はまっていて)、(一冊|本を)(選びたい|探しています)
{g}(漫画|作品)を(一覧|リスト)で(見せて|出して)
{g}の(話|物語)が読める(コミック|本)
""",
        "en": """
{g} (manga|comics|books)
(manga|comics|a story) about {g}
(best|good|popular|new) {g} (series|titles)
<i want/i would like> to read (something|a story) (about|with) {g}
(stories|books) for {g} (fans|lovers)
{g}
(do you sell|are there) (any |)(series|books) (about|on) {g}?
(list|show) (all |)(your |){g} (titles|books)( please|)
my (son|daughter|friend) is (crazy about|into) {g}, (which book|what) (fits|do i buy)?
(comic|series) with a lot of {g}
(searching|looking) for {g} (comics|stories)
in the mood for {g}
""",
    },
    "product": {
        "ja": """
『{t}』全{n}巻。{tell}物語。一冊{y}円。
{tell}。『{t}』は{n}巻まで発売中の漫画です。
{a}の『{t}』：{tell}作品。価格は{y}円。
漫画『{t}』（{a}）。{tell}。全{n}巻完結。
【{t}】{tell}、(話題|人気|待望)のシリーズ。{y}円。
{tell}、{a}の代表作『{t}』。{n}巻セットあり。
(新装版|愛蔵版)『{t}』。{tell}。税込{y}円、{n}冊。
{a}が描く『{t}』。{tell}姿に(涙|笑い)が止まらない。
""",
        "en": """
{t}, {n} volumes. A story in which {tell}. {y} dollars each.
{tell}: that is {t}, a manga by {a}, {n} volumes so far.
{t} by {a}. {tell}. Price {y} dollars.
Manga: {t}. {tell}. Complete in {n} volumes.
The (popular|new|acclaimed) series {t}: {tell}. {y} dollars.
{a} presents {t}. In this tale {tell}.
{t} ({a}), box set of {n} books. {tell}.
Readers love {t}: {tell}. From {y} dollars.
""",
    },
}

AUTHORS: list[tuple[str, str]] = [
    ("青葉ミナト", "Minato Aoba"), ("小鳥遊ソラ", "Sora Takanashi"), ("北野すず", "Suzu Kitano"),
    ("柊レン", "Ren Hiiragi"), ("森川はるか", "Haruka Morikawa"), ("早瀬トウマ", "Toma Hayase"),
    ("白石ゆず", "Yuzu Shiraishi"), ("黒田イチ", "Ichi Kuroda"), ("春日野アン", "Ann Kasugano"),
    ("水無月ナギ", "Nagi Minazuki"),
]
