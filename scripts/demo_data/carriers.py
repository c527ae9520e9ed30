"""Carrier sentences of key phrases (`phrases.py`), by kind of phrase; `{x}` is the phrase.

Every carrier is a sentence family of its own and belongs to one side of the split only
(notation: see `grammar.py`).
"""

CARRIERS: dict[str, dict[str, str]] = {
    "N": {"ja": """
{x}について<知りたい/知りたいです/伺いたいのですが>
{x}を<教えて/教えてください/お教えいただけますか>
{x}の(件|こと)で(相談|質問|聞きたいこと)が<ある/あります/ございます>
{x}(は|って)(どう|どんな感じ|どうなってる)<？/ですか？/でしょうか？>
{x}(が|は)(気になる|心配|知りたい)<んだけど/のですが/のでございますが>
{x}
{x}(、|は)(どうすればいい|どうしたらいい)<？/ですか？/でしょうか？>
{x}に関する(案内|情報|説明)を<見たい/見たいです/拝見したいのですが>
{x}<お願い/をお願いします/をお願いいたします>
(今|実は)、{x}を(調べて|探して)<る/います/おります>
{x}の(詳細|詳しいこと|説明)(は|を)<どこ？/お願いします/お聞かせください>
{x}(とは|というのは)(何|どういうこと)<？/ですか？/でしょうか？>
{x}が(必要|欲しい|いる)<んだけど/のですが/のでございますが>
(聞きたい|知りたい)のは{x}<だよ/です/でございます>
{x}の問題で(困って|悩んで)<る/います/おります>
{x}(は|が)(ある|できる|分かる)<？/んですか？/のでしょうか？>
{x}(に|の件に)(関して|つきまして)(確認|質問|相談)<したい/したいです/させていただけますか>
{x}(を|の確認を)(早めに|すぐに|急ぎで)<頼む/お願いできますか/お願い申し上げます>
(ちなみに|あと|それから)、{x}(は|も)<？/どうでしょう？/いかがでしょうか？>
{x}(の|についての)(ページ|案内)は(どこ|どちら)<？/ですか？/でしょうか？>
(まず|最初に)、{x}の(話|説明)を(聞きたい|してほしい)<//のですが>
{x}と(言えば|いうと)(どう|何)<？/ですか？/になりますか？>
""", "en": """
<tell me/could you tell me> (something |more |)about {x}
{x}
what about {x}?
i have a question (about|regarding) {x}
<i wanna know/i would like to know> (more |)about {x}
(help|assistance) (with|for) {x}( please|)
i (need|want) {x}
(information|info|details) (on|about) {x}( please|)
(how|what) is {x}?
is there (anything|something) (new|) (on|about) {x}?
(explain|please explain) {x}( to me|)
(i am|i'm) (writing|asking|here) (about|because of) {x}
{x}, (how does that work|how does it work)?
(problem|trouble|an issue) with {x}
<can u/could you please> (help|assist) me with {x}?
(do you|can you) (offer|have|give me) {x}?
my question is (about|on) {x}
where (do|can) i (find|see|get) {x}?
(let's|let us) talk about {x}
anything (to know|i should know) about {x}?
i (am|was) wondering about {x}
(looking|asking) for {x}( here| today|)
regarding {x}: (any help|what should i know|please advise)
"""},
    "V": {"ja": """
{x}には(どうすればいい|どうしたらいい)<？/ですか？/でしょうか？>
{x}(方法|やり方|手順)を<教えて/教えてください/お教えいただけますか>
{x}ことは<できる？/できますか？/可能でしょうか？>
{x}(のは|のって)(どうやる|どうやって)<の？/んですか？/のでしょうか？>
(今すぐ|早く|急いで){x}(必要がある|つもり)<だよ/です/でございます>
{x}(のを|ために)(手伝って|助けて)<くれる？/ください/いただけますか>
{x}には何が(必要|いる)<？/ですか？/でしょうか？>
どうやったら{x}ことが(できる|できます)<？/か？/でしょうか？>
{x}ための(手順|方法|ページ)は(どこ|何)<？/ですか？/でしょうか？>
{x}(予定|つもり)(だけど|なんですが)(大丈夫|問題ない)<？/ですか？/でしょうか？>
(できれば|可能なら){x}(ようにしたい|ことにしたい)<//のですが>
{x}(場合|とき)は(どうする|どうなる)<の？/んですか？/のでしょうか？>
""", "en": """
how (do|can) i {x}?
<i wanna/i would like to> {x}
(i want|i need) to {x}( now| today|)
<can i/may i> {x}?
(help|please help) me( to|) {x}
is it possible to {x}?
what (do|must) i do to {x}?
i am trying to {x}( but it is hard| but i don't know how|)
(steps|instructions|the way) to {x}( please|)
(would|could) you (let|help) me {x}?
{x}( please|)
(where|when) (can|do) i {x}?
(i'd|i would) (love|like) to {x}( if possible|)
am i (able|allowed) to {x}?
(any|is there a) way to {x}?
(my goal is|i was hoping|i plan) to {x}
"""},
    "S": {"ja": """
{x}<んだけど/のですが/のでございますが>
{x}
{x}から(困って|悩んで)<る/います/おります>
{x}。(どうすればいい|どうしたらいい)<？/ですか？/でしょうか？>
(実は|ええと|あのー)、{x}<んだよね/んです/のです>
{x}<けど/のですが/のでございますが>(なんとかして|助けて)<//ください>
(どうも|なんだか|やはり){x}(みたい|ようだ)<//です>
{x}ので(対応|確認)を<頼む/お願いします/お願いいたします>
{x}(場合|とき)は(どうする|どうなる)<の？/んですか？/のでしょうか？>
{x}(という|って)(状況|こと)(なんだ|なんです|です)
(さっきから|最近|ずっと){x}<んだけど/のですが/のでございますが>
{x}、(どうして|なんで)<？/でしょう？/でございましょうか？>
""", "en": """
{x}
{x}, (what should i do|what now|what can i do)?
(sorry|well|listen), (but |){x}
{x}, (please help|help me|can you help)
(i think|it seems|it looks like) {x}
(it is|it's) (just |)that {x}
{x}( again| and i need help|)( now|)
the (thing|problem|point) is that {x}
(so|now) {x}, (any advice|what do you say)?
{x} and i (would like|want|need) (some |)help( with it|)
what if {x}?
i (wanted|want) to (say|tell you) that {x}
"""},
    "B": {"ja": """
{x}
{x}！
(ええと|あの|えっと)、{x}
{x}。(では|それでは)
{x}(、|。)(皆さん|店員さん|ボットさん)
(はい|うん)、{x}(。|！)
(まずは|とりあえず){x}
(本当に|いつも|とにかく){x}
(皆さん|店員さん)、{x}
{x}(〜|ー|っ)(！|)
(コマさん|お店の人)、{x}(！|。)
""", "en": """
{x}
{x}!
(well|oh|ah), {x}
{x} (everyone|friend|dear team)
(ok|yes|right) {x}
{x} (bot|koma|shop)
(and |so |)(once again |again |)(just |){x}
{x} (from me|from germany|from here)
(oh my|hm|alright), {x}(!|)
{x}, (dear|my) (bot|friend|koma)(!|)
(just wanted to say|let me say|i say) {x}
"""},
}
