"""Sentence families of the intents about what the shop sells (notation: see `grammar.py`)."""

FAMILIES: dict[str, dict[str, str]] = {
    "recommendation": {
        "ja": """
(おすすめ|オススメ)の(漫画|マンガ|本)を<教えて/教えてください/教えていただけますか>
{g}の(漫画|マンガ|作品)で(おすすめ|面白いの|人気なの)は<ある？/ありますか？/ございますか？>
{t}(が好き|が面白かった)<なんだけど/のですが>、似た(漫画|作品)は<ある？/ありますか？/ございますでしょうか？>
何か(面白い|泣ける|笑える)(漫画|本)<ない？/ありませんか？/ございませんか？>
(初心者|子ども|大人)(向け|にぴったり)の(漫画|マンガ)を(紹介|おすすめ)<して/してください/していただけますか>
{t}みたいな(漫画|作品|本)を(探してる|読みたい)<んだけど/のですが>
(友達|娘|息子|彼女)への(プレゼント|贈り物)にいい漫画は<何？/何ですか？/何がよろしいでしょうか？>
今(流行ってる|人気の|話題の)(漫画|マンガ|作品)は<何？/何ですか？/どれでしょうか？>
{g}が(好き|読みたい)<なんだけど/のですが>何を読めば<いい？/いいですか？/よろしいでしょうか？>
次に読む(漫画|本)を(選んで|一緒に探して|提案して)<くれる？/ください/いただけますか>
短く(完結|終わる)(している|)(おすすめ|面白い)の作品を<知りたい/知りたいです/伺いたいのですが>
(店員さん|スタッフ)の(おすすめ|イチオシ)は<どれ？/どれですか？/どちらでしょうか？>
{t}を読み終わった<けど/のですが>、次は何が(おすすめ|いい)<？/ですか？/でしょうか？>
(週末|通勤中|寝る前)に読むのに(いい|おすすめの|ぴったりの)漫画<ある？/はありますか？/はございますか？>
{g}の(名作|傑作|人気作)を(三つ|いくつか)(挙げて|教えて|紹介して)<よ/ください/いただけますか>
私の好みに合う(漫画|作品)を(見つけて|選んで)<ほしい/ほしいです/いただきたいのですが>
どの(漫画|作品)が一番(人気|面白い|売れてる)<？/ですか？/でしょうか？>
{g}っぽい(話|やつ|作品)(読みたい|探してます|ないかな)
(小学生|中学生|女性)に人気の(シリーズ|漫画|作品)は(何|どれ)<？/ですか？/でしょうか？>
(最近|今年)の(新作|漫画)で(ハマれる|おすすめの|面白い)もの<ある？/はありますか？/はございますか？>
(暇だから|時間があるので)何か(読みたい|いい漫画ないかな|おすすめお願いします)
{g}で(全巻|最後まで)一気に読める(もの|漫画|やつ)を<教えて/お願いします/ご紹介いただけますか>
""",
        "en": """
<can u/could you please> recommend (a manga|something to read|some {g} manga)?
what (manga|series) do you recommend( for beginners| for adults|)?
i (like|love|enjoyed) {t}, what should i read next?
(any|do you have any) (good|fun) {g} (manga|series|stories)( to recommend|)?
something (like|similar to) {t}( please|?|)
<looking for/i am looking for> a (good|popular) {g} (series|manga|story)
(suggest|recommend) me (a|some) (manga|books|good series)( about {g}|)
what is (popular|trending|hot) (right now|this month|these days)?
what (is|are) the best {g} (manga|series)?
which manga (should|would) i (start|begin) with if i (like|love) {g}?
a (gift|present) for (my son|my daughter|a friend) who likes {g}( manga|), any ideas?
i'm (bored|in the mood for {g}), give me something (fun|good) to read
what are (your|the staff's) (favourite|favorite|top) (titles|manga)?
i want (to read|) a (short|finished|funny|sad) (series|manga), what do you suggest?
(help me|please help me) (pick|choose|find) (a manga|my next series)
is there a manga (you think i would like|that fits my taste|like {t})?
i (finished|have read all of) {t}. what (else|next) would you recommend?
(top|best) (three|five|ten) {g} (manga|titles)
what do (kids|teens|people) (like|read) (these days|most)?
i usually read {g}, any (suggestions|recommendations)?
tell me (about|) (a great|an interesting) {g} (manga|book) (to try|i could read)
(suggestions|recommendations|ideas) for a (manga|series) to read (on the train|this weekend)?
""",
    },
    "availability": {
        "ja": """
{t}の在庫は<ある？/ありますか？/ございますか？>
{t}{v}は(まだ|今も|)(売ってる|買える|置いてる)<？/んですか？/のでしょうか？>
{t}は(いつ|今度いつ)(入荷|再入荷)<する？/しますか？/いたしますでしょうか？>
{t}は(品切れ|売り切れ|在庫切れ)<？/ですか？/でしょうか？>
{t}{v}を(扱って|取り扱って|置いて)<る？/いますか？/いらっしゃいますか？>
(全巻|全巻セット)(揃って|在庫が揃って)<る？/いますか？/おりますでしょうか？>{t}です
{t}が(欲しい|買いたい)<んだけど/のですが>、(在庫|残り)は(何冊|まだ)<ある？/ありますか？/ございますか？>
入荷したら(連絡|お知らせ|通知)<して/してください/していただけますか>
(在庫|入荷)の(状況|予定)を<教えて/教えてください/お教えいただけますか>
{t}の(英語版|日本語版|愛蔵版)は(売って|置いて|取り扱って)<る？/いますか？/おりますか？>
(再販|再入荷|重版)の予定は<ある？/ありますか？/ございますか？>
そちらに{t}は<ある？/ありますか？/ございますでしょうか？>
{t}{v}、(売り切れ|在庫なし)って(出てる|なってる)<けど/のですが>もう(入らない|手に入らない)<の？/のですか？/のでしょうか？>
(店舗|お店|{p}店)に{t}の(在庫|本)は(残って|あって)<る？/いますか？/おりますでしょうか？>
{t}の(新品|中古)(は|って)(手に入る|まだ買える|残ってる)<？/のですか？/のでしょうか？>
(絶版|廃盤)の(漫画|本)でも(手に入る|買える|在庫がある)<？/のですか？/のでしょうか？>
今すぐ(買える|手に入る)のは{t}の何巻<？/ですか？/でしょうか？>
{t}を{n}冊(まとめて|)買いたい<けど/のですが>在庫は(足りる|十分ある)<？/でしょうか？/のでしょうか？>
(電子版|紙の本)で{t}は<ある？/ありますか？/ご用意がございますか？>
(次|今度)の入荷は<いつ？/いつですか？/いつ頃になりますでしょうか？>
在庫の(ある|残っている)(巻|漫画)だけ(知りたい|見たい|教えてほしい)</です/のですが>
{t}{v}って(置いてない|売ってない|入ってない)<の？/んですか？/のでしょうか？>
""",
        "en": """
do you have {t}( {v}|)( in stock|)?
is {t}( {v}|) (in stock|available|still available)?
when will {t} be (back in stock|restocked|available again)?
(stock|availability) of {t}( {v}|)?
<got/do you carry> {t}( in english| in japanese|)?
is {t}( {v}|) (sold out|out of stock)?
how many copies of {t} do you have( left|)?
are all (the |)volumes of {t} (available|in stock)?
(let me know|notify me|email me) when {t} is (back|in stock|available)
can i (still|) (buy|get|find) {t}( {v}|) (here|in your shop|at your store)?
do you (sell|stock|keep) (the |)(hardcover|box set|digital edition|english version) of {t}?
<im/i am> (looking for|after) {t} {v}, (is it there|do you have it|is it in stock)?
will you (get|have) more copies of {t}( soon|)?
(check|can you check) (if|whether) {t} is (in stock|available)( at the {p} store|)
which volumes of {t} are (available|in stock)( now|)?
it says {t} is (sold out|unavailable), (will it come back|is it coming back)?
any (copies|sets) of {t} left( in the shop|)?
does your {p} (store|shop) (have|stock) {t}?
i need {n} copies of {t}, do you have (enough|that many)?
can i get (out of print|old|used) (manga|books) (from|at) your (store|shop)?
is there a (restock|next shipment) date for {t}?
are there (still|any) new copies of {t} (to buy|available|left)?
""",
    },
    "price": {
        "ja": """
{t}は<いくら？/いくらですか？/おいくらでしょうか？>
{t}{v}の(値段|価格|金額)を<教えて/教えてください/お教えいただけますか>
(全巻|全巻セット)だと(値段|価格)は<いくら？/いくらになりますか？/おいくらになりますでしょうか？>
(割引|セール|キャンペーン)は<ある？/ありますか？/ございますか？>
(クーポン|割引コード)は(使える|ある|もらえる)<？/んですか？/のでしょうか？>
{t}を{n}冊買うと(合計|全部で)<いくら？/いくらですか？/おいくらになりますか？>
もっと(安く|お得に)<ならない？/なりませんか？/していただけませんか？>
(税込|税抜)(価格|の値段)(は|って)<いくら？/いくらですか？/おいくらでしょうか？>
(学生割引|会員割引|まとめ買い割引)は<ある？/ありますか？/ございますか？>
{t}の(中古|新品)の(値段|価格|相場)は<？/どのくらいですか？/どれほどでしょうか？>
一冊(いくら|何円)で(売ってる|買える)<？/のですか？/のでしょうか？>{t}
次の(セール|割引|安売り)は(いつ|いつから)<？/ですか？/でしょうか？>
(電子版|紙の本)と(紙の本|電子版)で(値段|価格)は<違う？/違いますか？/異なりますでしょうか？>
(値段|価格)が(高い|高すぎる)<んだけど/のですが>、(安い|お得な)(もの|セット)は？
{t}の(定価|販売価格)は(何円|いくら)<？/ですか？/でしょうか？>
(千円|二千円|三千円)以下で買える(漫画|本|セット)は<ある？/ありますか？/ございますか？>
今(セール中|割引中|値下げ中)の(漫画|作品)は<どれ？/どれですか？/どちらでしょうか？>
{t}って(安くなった|値下げした|値上がりした)<？/んですか？/のでしょうか？>
(セット|まとめて買う)なら{t}は何円(引き|安い)<？/ですか？/でしょうか？>
(ポイント|会員)(割引|値引き)で{t}は(いくら|何円)に<なる？/なりますか？/なりますでしょうか？>
いくらで(売ってる|買える)か<知りたい/知りたいです/伺いたいのですが>、{t}の{v}
{t}の全巻セットの(お値段|金額|価格)を<見積もって/見積もってください/お見積もりいただけますか>
""",
        "en": """
how much (is|does) {t}( {v}|)( cost|)?
<whats/could you tell me> the price of {t}( {v}|)?
how much for the (whole|complete|full) (set|series) of {t}?
(any|are there any|do you have any) (discounts|sales|deals|coupons)( on {t}|)?
(price|cost) of {t}( {v}| box set|)?
is {t} on sale( now|)?
do you (have|offer|give) (a |)(student|member|bulk) discount?
can i (use|get) a (coupon|discount code|promo code)?
is there a (cheaper|cheap) (edition|version|copy) of {t}?
what would {n} (volumes|copies|books) of {t} (cost|come to)( in total|)?
when is the next (sale|discount)?
(does|is) the price (include tax|with tax)?
is the (digital|used) (edition|copy) of {t} cheaper( than the new one|)?
{t} seems (expensive|too expensive), (is there a discount|can you go lower)?
what do you (charge|ask|sell) for {t}( {v}|)( for|)?
how many (yen|dollars|euros) is {t}( {v}|)?
(anything|do you have manga) under (five|ten|twenty) dollars?
has the price of {t} (gone up|gone down|changed)?
do i (save|pay less) (money|) if i buy the (full set|box set|whole series)?
which (manga|titles) are (discounted|on sale|reduced) (this week|today|now)?
(give|send) me a (quote|price) for (the complete set of |){t}<, thx/, please>
are (box sets|used books|bundles) cheaper than single volumes?
""",
    },
    "preorder": {
        "ja": """
{t}の(新刊|最新刊)を予約<したい/したいです/させていただきたいのですが>
{t}{v}の予約は<できる？/できますか？/可能でしょうか？>
(予約|先行予約)は(いつから|何日から)<？/ですか？/でしょうか？>
{t}{v}の発売日は<いつ？/いつですか？/いつになりますでしょうか？>
(予約|先行予約)(特典|限定の特典)は<付く？/付きますか？/付きますでしょうか？>
(新刊|次の巻)は(いつ|何月に)(出る|発売される)<？/のですか？/のでしょうか？>{t}
(発売前|これから出る)の{t}を(取り置き|予約)<して/してください/していただけますか>
(限定版|特装版)の(予約|受付)は(まだ|今から)(間に合う|できる)<？/のですか？/のでしょうか？>
予約した(本|漫画|商品)は発売日に<届く？/届きますか？/届きますでしょうか？>
予約(方法|のやり方|の手順)を<教えて/教えてください/お教えいただけますか>
予約の(締め切り|期限)は(いつ|いつまで)<？/ですか？/でしょうか？>
{t}の(続刊|新刊|次巻)が出たら(自動で|すぐに)(予約|取り置き)<したい/したいです/していただきたいのですが>
(来月|今月|来週)(発売|出る)の(漫画|新刊)を(予約|先に注文)<できる？/できますか？/可能でしょうか？>
{t}{v}(もう|すでに)予約(始まった|始まってる|受付中)<？/ですか？/でしょうか？>
発売日(前|より前)に(注文|申し込み)(できる|しておける)<？/のですか？/のでしょうか？>
予約(すると|したら)(お金|支払い)は(いつ|先に)(払う|必要)<の？/のですか？/のでしょうか？>
(サイン本|初回限定版)を(予約|発売前に確保)<したい/したいです/させていただきたいです>
{t}の最新(刊|巻)(の発売|が出るの)は(何日|いつ|来月)<？/ですか？/でしょうか？>
(予約|先行注文)の(受付|開始)(日|時間)を<知りたい/知りたいです/お知らせください>
発売が(延期|延びた)<って本当？/というのは本当ですか？/と伺いましたが本当でしょうか？>{t}の新刊
(まだ発売されてない|発売前の)(巻|本)を(申し込みたい|押さえたい|予約したい)
""",
        "en": """
<can i/may i> (pre-order|preorder|reserve) {t}( {v}|)?
when (does|will) {t} {v} (come out|be released|go on sale)?
(pre-orders|preorders) (for|of) {t}, (when do they open|are they open)?
<whats/what is> the release date (of|for) {t}( {v}|)?
i (want|would like) to (pre-order|preorder|reserve) the (next|new|latest) volume of {t}
is there a (pre-order|preorder) bonus( for {t}|)?
(reserve|hold) me a copy of {t} {v} when it (comes out|is released)
how do (pre-orders|preorders|reservations) work?
will my (pre-order|preorder) (arrive|ship) on release day?
do i pay now or (later|on release) (for|with) a (pre-order|preorder)?
is the (limited|special|signed) edition (up|open) for (pre-order|preorder)( yet|)?
(upcoming|new) release of {t}: can i (order|reserve|book) it (early|in advance)?
when is the new {t} (volume|book) (out|coming)?
until when can i (pre-order|preorder) the (limited|first) edition?
can i (sign up|register) for (the next|every new) volume of {t}( automatically|)?
(has|is) the release of {t} {v} been (delayed|moved|postponed)?
put me (down|on the list) for {t} {v} (before it is released|on release day)
are you taking (advance orders|reservations|pre-orders) for {t}( {v}|)( yet|)?
which (new|upcoming) (volumes|releases) can be (pre-ordered|reserved)( now|)?
i want {t} {v} (the day|as soon as) it (is released|comes out)
has {t} {v} (opened|started) for (pre-order|reservation)( yet|)?
""",
    },
    "series_order": {
        "ja": """
{t}は(どの|何)(順番|順)で読めば<いい？/いいですか？/よろしいでしょうか？>
{t}は全(部で|)何巻<？/ですか？/でしょうか？>
{t}は(完結|終わって)<してる？/していますか？/しておりますでしょうか？>
{t}の続編(は|って)<何？/何ですか？/何でしょうか？>
{t}の(外伝|番外編)は(いつ|どこで|何巻の後に)読めば<いい？/いいですか？/よろしいでしょうか？>
{t}の(シリーズ|作品)の(順番|読む順番)を<教えて/教えてください/お教えいただけますか>
{v}の(次|あと)は何を読<む？/みますか？/めばよろしいでしょうか？>{t}の
(続編|第二部)から読んでも(大丈夫|分かる)<？/ですか？/でしょうか？>
{t}(と|と続編)は(つながって|話が続いて)<る？/いますか？/おりますでしょうか？>
{t}は(何巻|どの巻)から(読めば|始めれば)<いい？/いいですか？/よろしいでしょうか？>
{t}の(最終巻|最後の巻)は何巻<？/ですか？/でしょうか？>
(本編|外伝)と(外伝|本編)、(どっち|どちら)を先に読<む？/みますか？/むべきでしょうか？>
(シリーズ|作品)の(時系列|読む順)が(分からない|知りたい)<んだけど/のですが>
{t}は今何巻まで(出てる|出ている|刊行されている)<？/のですか？/のでしょうか？>
{t}の前日譚(は|って)(ある|先に読むべき)<？/のですか？/のでしょうか？>
(一巻|{v})を(飛ばして|読まなくて)も話は(分かる|つながる)<？/でしょうか？/のでしょうか？>{t}
{t}(第一部|第二部)は何巻(まで|から)<？/ですか？/でしょうか？>
(新装版|文庫版)の{v}は(元の|単行本の)何巻(に当たる|と同じ)<？/ですか？/でしょうか？>
{t}はまだ(続いてる|連載中|続く)<？/のですか？/のでしょうか？>それとも(完結|終わり)？
(初めて|はじめて)読む<けど/のですが>{t}は(どれ|どの巻)が最初<？/ですか？/でしょうか？>
(スピンオフ|外伝)は(本編|シリーズ)の何番目に(読む|入る)<の？/のですか？/のでしょうか？>
""",
        "en": """
(what|which) order should i read {t}( in|)?
how many volumes (are there in|does) {t}( have|)?
is {t} (finished|complete|still ongoing)?
(what|which book) (is|comes) (the sequel to|after) {t}?
(reading|correct) order (of|for) {t}( series|)?
should i read the (spin-off|prequel|side story) (before|after) {t}?
<whats/what is> the (last|final|latest|first) volume of {t}?
where (do|should) i start (with|reading) {t}?
can i (skip|start from) {v} of {t}?
does {t} have a (sequel|prequel|spin-off)?
is {t} (connected|related) to (the sequel|another series)?
what comes after {v} of {t}?
do i (need|have) to read the (first series|main story|prequel) (first|before the sequel)?
how long is (the {t} series|{t})? (number of volumes|how many books)?
i am new to {t}, which volume (is first|comes first|do i begin with)?
(timeline|chronological order) of the {t} (books|series)?
(has|did) {t} (ended|end) or is it (still running|ongoing)?
which volumes (make up|belong to) (part one|part two) of {t}?
is the new edition {v} of {t} the same as the old (volume|one)?
in which order (do|should) the (side stories|spin-offs) and the main (series|story) (go|be read)?
up to (which|what) volume has {t} (come out|been published)?
""",
    },
}
