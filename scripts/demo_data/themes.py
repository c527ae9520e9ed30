"""Themes of the shop's products: how customers ask for one, and how product texts tell of it.

Per theme: `ask` are words of queries, `tell` are phrases of product texts. The last phrase of
each `tell` list is used in test passages only, the others in training passages only.
"""

from typing import NamedTuple


class Theme(NamedTuple):
    """One theme in both languages, `|` between the alternatives."""

    ask_ja: str
    ask_en: str
    tell_ja: str
    tell_en: str


THEMES: dict[str, Theme] = {
    "cooking": Theme(
        "料理|グルメ|ごはん|食べ物", "cooking|food|gourmet|chef",
        "食堂を継いだ料理人が毎日の食事を作る|包丁一本で味を競う料理人|レシピと鍋を抱えた見習いのグルメ|食事で客を笑顔にする食堂",
        "a young chef runs a tiny kitchen|recipes and meals that heal tired guests|a kitchen battle of taste|meals from a kitchen that make guests smile"),
    "sports": Theme(
        "スポーツ|野球|サッカー|部活", "sports|baseball|soccer|football",
        "弱小チームが甲子園の優勝を目指す|エース投手と仲間が試合に挑む|選手たちの汗と練習の日々|弱小チームの選手が試合で優勝を目指す",
        "a weak team trains for the championship|a pitcher and his team mates fight for every match|players who never give up|a team of players on the way to the championship match"),
    "romance": Theme(
        "恋愛|ラブコメ|恋|胸キュン", "romance|love|romantic comedy|love story",
        "片思いの二人が少しずつ距離を縮める|初恋の告白と切ないすれ違い|幼なじみへの想いに気づく春|片思いの幼なじみに告白する初恋",
        "two shy classmates fall for each other|a first kiss and a confession|childhood friends with secret feelings|a confession of feelings between two shy friends"),
    "mystery": Theme(
        "ミステリー|推理|探偵もの|事件もの", "mystery|detective|crime|whodunit",
        "密室の謎を解き犯人を追う|名探偵が残された証拠から真相に迫る|殺人の夜に消えた容疑者|証拠から謎の犯人と真相を追う",
        "a sleuth follows clues to the killer|a locked room murder and many suspects|the truth behind a theft|clues and suspects lead to the truth of a murder"),
    "horror": Theme(
        "ホラー|怖い|怪談|恐怖", "horror|scary|ghost stories|creepy",
        "呪われた屋敷に響く悲鳴|夜ごと現れる幽霊の影|血の気が引く呪いの村|呪いの村に幽霊の悲鳴が響く",
        "a cursed house full of screams|spirits that haunt the night|a village under a curse|a curse and spirits haunt the house at night"),
    "fantasy": Theme(
        "ファンタジー|異世界|冒険|剣と魔法", "fantasy|isekai|adventure|sword and sorcery",
        "勇者が仲間と魔王に挑む旅|転生した青年が迷宮を攻略する|精霊と契約した剣士の旅|転生した勇者が迷宮で魔王に挑む",
        "a hero and his party face the demon king|reborn in another world with strange powers|a quest through dungeons|a hero reborn on a quest to the demon king"),
    "space": Theme(
        "宇宙|SF|未来もの|サイエンスフィクション", "space|science fiction|sci-fi|future",
        "惑星を渡る船団の航海記録|軌道上の基地で働く飛行士|星間戦争を生きる操縦士|船団の操縦士が軌道上の惑星へ向かう",
        "a crew drifts between planets|astronauts on an orbital station|a pilot in an interstellar war|a pilot and crew leave the station for other planets"),
    "robot": Theme(
        "ロボット|メカ|アンドロイド|機械もの", "robots|mecha|android|machines",
        "巨大な機体に乗り込む少年兵|心を持った人型の機体|歯車と鋼の巨人が戦う|鋼の巨人の機体に心が宿る",
        "a boy pilots a giant steel suit|an artificial girl learns to have a heart|gears and steel giants clash|a giant of steel and gears with an artificial heart"),
    "animals": Theme(
        "動物|猫|犬|ペット", "animals|cats|dogs|pets",
        "子猫と暮らす毎日の記録|獣医と保護された子犬たち|もふもふの毛並みに癒やされる|子猫と子犬のもふもふな毎日",
        "daily life with a fluffy kitten|a vet and rescued puppies|paws, tails and naps|a fluffy kitten and puppies with soft paws"),
    "music": Theme(
        "音楽|バンド|楽器|歌", "music|band|singing|instruments",
        "ギターを手にした四人の演奏|吹奏楽の舞台に立つ指揮者|路上でピアノを弾く青年の旋律|ギターとピアノの旋律で舞台の演奏へ",
        "four girls form a rock group with guitars|a pianist returns to the stage|melodies played on the street|guitars and a pianist play melodies on stage"),
    "historical": Theme(
        "歴史|時代劇|侍|戦国", "historical|samurai|history|period drama",
        "江戸の町を守る浪人|武将たちの合戦と裏切り|幕末を駆けた志士|江戸の浪人と武将の合戦",
        "a wandering ronin in old edo|warlords and castle sieges|the last days of the shogun|a ronin and warlords under the shogun"),
    "school": Theme(
        "学園|高校生活|青春|学校", "school|high school|youth|student life",
        "文化祭の準備に走る生徒会|転校生と教室の仲間たち|卒業までの三年間|転校生と生徒会が教室で過ごす三年間",
        "the student council prepares the festival|a transfer pupil and her classroom|three years until graduation|a transfer pupil, a classroom and a festival before graduation"),
    "magical": Theme(
        "魔法少女|魔女|変身|魔法使い", "magical girl|witch|magic|wizard",
        "ほうきで空を飛ぶ見習いの娘|杖と呪文で町を救う|変装の指輪で戦う少女たち|杖と呪文を学ぶほうきの見習い",
        "an apprentice flies on a broom|wands and spells save the town|girls transform to fight shadows|an apprentice with a wand and a broom learns spells"),
    "workplace": Theme(
        "仕事|会社|社会人|お仕事もの", "work|office|business|salaryman",
        "新入社員と上司の残業の日々|営業部の同僚たちの昼休み|編集者が締め切りと戦う|上司と同僚と残業する新入社員",
        "a new employee and a strict boss|coworkers and deadlines|an editor works overtime|an employee with a boss, coworkers and overtime"),
    "family": Theme(
        "家族|子育て|親子|ほのぼの", "family|parenting|heartwarming|kids",
        "父と幼い娘の二人暮らし|四世代が住む大きな家|双子の赤ちゃんに振り回される母|父と母と赤ちゃんが暮らす家",
        "a father raises his little daughter|four generations under one roof|a mother with twin babies|a mother, a father and babies under one roof"),
    "pirates": Theme(
        "海賊|海|船|航海もの", "pirates|sea|ships|sailing",
        "財宝の島を目指す帆船|船長と荒波を越える水夫|港で集めた海図と羅針盤|船長が帆船で財宝の海図を追う",
        "a captain hunts buried treasure|sailors cross the stormy ocean|maps, anchors and harbours|a captain and sailors with maps of treasure across the ocean"),
    "vampire": Theme(
        "吸血鬼|ヴァンパイア|ダークファンタジー|不死", "vampires|undead|dark fantasy|immortal",
        "棺で眠る伯爵と血の契り|牙を隠して生きる夜の一族|十字架を持つ狩人|棺の伯爵と牙を持つ夜の一族",
        "a count sleeps in a coffin and drinks blood|a clan that hides its fangs|hunters with silver crosses|a clan with fangs, a coffin and hunters"),
    "medical": Theme(
        "医療|医者|病院もの|看護師", "medical|doctors|hospital|nurses",
        "手術室で命を救う外科医|離島の診療所の日々|患者に寄り添う研修医|外科医と患者の診療所の手術",
        "a surgeon saves lives in the operating room|a clinic on a remote island|an intern and her patients|a surgeon and an intern care for patients at a clinic"),
    "travel": Theme(
        "旅行|鉄道|電車|旅", "travel|trains|railway|road trip",
        "駅弁を片手に各駅停車で巡る|廃線の駅を訪ねる写真家|切符一枚で北へ向かう|切符と駅弁で各駅停車の駅を巡る",
        "lunch boxes on slow local lines|a photographer visits old stations|a ticket to the far north|a ticket for local lines and old stations"),
    "war": Theme(
        "戦争|軍事|ミリタリー|戦場", "war|military|soldiers|battlefield",
        "塹壕の兵士が家に宛てた言葉|連隊の最後の冬|前線へ送られる衛生兵|前線の塹壕で冬を越す兵士の連隊",
        "letters from the trenches|a regiment and its last winter|a medic is sent to the front|a regiment in the trenches at the front"),
    "idol": Theme(
        "アイドル|芸能界|ダンス|推し活", "idols|showbiz|dance|fandom",
        "センターを目指す研修生の舞台裏|解散寸前のユニットの再起|ファンに支えられる新人歌手|ユニットの研修生がファンとセンターを目指す",
        "trainees dream of the centre spot|a unit on the edge of breaking up|fans lift a newcomer to fame|trainees in a unit carried by fans to the centre"),
    "games": Theme(
        "ゲーム|将棋|勝負もの|頭脳戦", "games|board games|gambling|mind games",
        "盤上で駒を動かす天才棋士|カードと賭けの心理戦|仮想空間で腕を競う対戦者|駒とカードで競う天才の心理戦",
        "a prodigy moves pieces on the board|cards, bets and bluffs|players compete in a virtual arena|a prodigy bluffs with cards and pieces"),
}
