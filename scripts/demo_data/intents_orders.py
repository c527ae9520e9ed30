"""Sentence families of the intents about an order: status, shipping, returns, cancelling.

One line is one family. `(a|b)` is a free choice, `<x/y/z>` a choice by politeness (Japanese
casual/polite/keigo, English casual/formal), `{t}` a slot; see `grammar.py`.
"""

FAMILIES: dict[str, dict[str, str]] = {
    "order_status": {
        "ja": """
(注文|オーダー)した(商品|本|漫画)はいつ<届く？/届きますか？/届きますでしょうか？>
{past}(注文|購入)した{t}がまだ(届かない|来ない)<んだけど/のですが/のでございますが>、今どこ(にある|ですか)？
{o}の(配送状況|状況|進捗)を<教えて/教えてください/教えていただけますか>
私の(荷物|注文)は今どうなって<る？/いますか？/おりますでしょうか？>
(もう|すでに)発送<された？/されましたか？/されておりますでしょうか？>{o}です
(追跡番号|伝票番号|お問い合わせ番号)を<知りたい/知りたいです/お知らせいただけますか>
{t}の注文、発送(済み|した)<かな？/ですか？/でしょうか？>
荷物の追跡が<できない/できません/できないのですが、確認いただけますか>
{o}、まだ(準備中|処理中)のまま<だけど/ですが>いつ(出る|発送)<の？/ですか？/でしょうか？>
{past}頼んだ(漫画|本|荷物)、届くのは(今日|明日|いつ)<かな/ですか/になりますでしょうか>
注文(状況|の状態|ステータス)を(確認|チェック)<したい/したいです/させていただきたいのですが>
発送(メール|の連絡|通知)が来て<ない/いません/おりません>。注文{o}です
{past}の注文はちゃんと(通ってる|入ってる)<？/んですか？/でしょうか？>確認(メール|の連絡)がなくて
うちに届く予定日は<いつ？/いつですか？/いつになりますでしょうか？>{o}
{t}{v}を(頼んで|注文して)から(一週間|十日|二週間)たつ<けど/のですが>状況は？
お届け予定(日|時間)を<見たい/確認したいです/確認させていただけますか>、番号は{o}
配達(中|済み)と(出てる|表示されている)<けど/のですが>荷物が見当たら<ない/ません>
(商品|荷物)は今(どこ|どの辺|どこの倉庫)<？/ですか？/でしょうか？>
(注文|購入)履歴に{o}がある<けど/のですが>いつ(出荷|発送)<される？/されますか？/していただけますか？>
{t}は(いつごろ|何日ごろ)手元に(届く|着く|来る)<？/予定ですか？/ご予定でしょうか？>もう(買って|注文して|支払って)あります
僕の(オーダー|注文)まだ<？/ですか？/でしょうか？>
追跡(ページ|リンク)を<送って/送ってください/お送りいただけますでしょうか>
出荷(状況|日)の確認を<頼む/お願いします/お願いいたします>。注文番号は{o}です
""",
        "en": """
where is my (order|package|parcel)(?|)
(has|did) my order {o} <ship yet/been shipped yet, please>?
<can you/could you please> (check|look up) the status of (order |){o}?
i ordered {t} {past} and it (hasn't arrived|still isn't here|has not come) yet
<whats/could you tell me> the tracking number for my (order|package)
when will my (order|package|books) (arrive|get here|be delivered)?
(track|find) my (package|parcel|order) {o}
my order (still says|is still showing) (processing|pending), <whats going on/what is happening>?
is {t} {v} (on its way|shipped) (yet|already|)? i (bought|ordered) it {past}
i want to <know/kindly ask> (how far|where) my delivery is
(any|is there any) (update|news) on (my order|order {o}|the books i ordered)?
it (says|shows) delivered but i (have not received|never got) my (package|books)
(order|order number) {o}: (status|where is it|current status)?
i (never got|did not receive) a (shipping|dispatch) (email|notice) for {o}
<hows/how is> my order (doing|coming along)?
what day (should|will) the (manga|books|box) i (ordered|bought) {past} (arrive|reach me)?
the tracking (link|page) (does not|doesn't) (work|update), where is my (box|parcel)?
did you (get|receive) my order from {past}? no confirmation (so far|yet)
has {t} been (sent|dispatched|shipped) to me (yet|already)?
i have been waiting (a week|ten days|two weeks) for order {o}, (where is it|what is its status)?
expected (delivery|arrival) date (for|of) (my order|order {o}) please
<need to see/i would like to see> where my (parcel|package) is (right now|at the moment)
has the courier (picked up|collected) my (order|parcel) {o}?
""",
    },
    "shipping": {
        "ja": """
送料は<いくら？/いくらですか？/おいくらでしょうか？>
{p}まで(の送料|配送料)は<いくら？/いくらかかりますか？/おいくらになりますでしょうか？>
海外(発送|配送)は<できる？/できますか？/可能でしょうか？>
{p}に(も|)(送って|発送して|配送して)<くれる？/もらえますか？/いただけますでしょうか？>
(注文|購入)してから(何日|どれくらい|どのくらい)で届き<そう？/ますか？/ますでしょうか？>
送料(無料|が無料)になるのは(何円|いくら)から<？/ですか？/でしょうか？>
(配送|お届け)(方法|の種類)を<教えて/教えてください/お教えいただけますか>
(日時|時間|日付)指定は<できる？/できますか？/お願いできますでしょうか？>
(コンビニ|郵便局|営業所)(受け取り|で受け取ること)は<できる？/できますか？/可能でしょうか？>
(お急ぎ便|速達|翌日配送)は<ある？/ありますか？/ございますか？>
まとめて(発送|配送|送って)もらうと送料は<安くなる？/安くなりますか？/お安くなりますでしょうか？>
(どこ|どの)の(運送会社|配送業者)を使って<る？/いますか？/いらっしゃいますか？>
(普段|普通)は(発送|配送)まで何日(かかる|必要)<の？/ですか？/でしょうか？>
(離島|{p})への(配送|発送)だと追加料金が<いる？/かかりますか？/発生いたしますか？>
(置き配|宅配ボックス)(に|への配達に)対応して<る？/いますか？/おりますでしょうか？>
(土日|祝日|週末)も(配達|発送)して<くれる？/もらえますか？/いただけますか？>
(ギフト|プレゼント)として(別の住所|友達の家)に(送る|発送する)ことは<できる？/できますか？/可能でしょうか？>
一冊だけでも送料は(かかる|必要)<の？/ですか？/でしょうか？>
(国際|海外)便の(料金|送料|日数)を<知りたい/知りたいです/お聞きしたいのですが>
{p}だと(配送|お届け)に何日<かかる？/かかりますか？/ほどかかりますでしょうか？>
配送料の(一覧|表|計算方法)は<どこ？/どこにありますか？/どちらにございますか？>
梱包は(どんな感じ|どう)<？/ですか？/でしょうか？>(普通郵便|宅配便)で送るんですか
(船便|航空便|メール便)は(選べる|使える)<？/のですか？/のでしょうか？>
""",
        "en": """
how much is shipping( to {p}|)?
do you (ship|deliver|send) (to {p}|overseas|internationally)?
<whats/what is> the (shipping|delivery) (fee|cost|charge)( to {p}|)?
how (long|many days) does (shipping|delivery) (take|usually take)( to {p}|)?
is there free (shipping|delivery)( over some amount|)?
<can i/may i> (choose|pick) a delivery (date|time|day)?
do you (have|offer) (express|next day|fast) (shipping|delivery)?
which (courier|carrier|delivery company) do you use?
what (shipping|delivery) (options|methods) (do you have|are there|are available)?
<can i/would it be possible to> pick up my (books|parcel) at a (convenience store|post office)?
how much do i have to (spend|buy) to get free (shipping|delivery)?
(shipping|delivery) (cost|rates) for (two|three|ten) (books|volumes) to {p}?
do you deliver on (weekends|sundays|holidays)?
can you (send|ship) a (gift|present) to (a different|another) address?
is (international|overseas) (shipping|delivery) (expensive|possible|available)?
do i pay (customs|import) (fees|tax) when you ship to {p}?
<im/i am> in {p}, (would|can) you (deliver|ship) (here|to me)?
if i (buy|order) several (volumes|books) together, is the (shipping|postage) (cheaper|combined)?
(postage|shipping) (price|prices|fees) please
how are the (books|volumes) (packed|wrapped) for (shipping|delivery)?
(sea|air) mail or courier, (what|which) do you (use|offer) for {p}?
extra (charge|fee) for (remote islands|{p})?
how (soon|quickly) do you (dispatch|send out) (orders|parcels) (normally|usually)?
""",
    },
    "returns": {
        "ja": """
返品<したい/したいです/させていただきたいのですが>
{t}を返品(するには|したいときは)どうすれば<いい？/いいですか？/よろしいでしょうか？>
(返金|払い戻し)は<してくれる？/してもらえますか？/していただけますでしょうか？>
間違えて買った{t}を(返品|返したい)<できる？/できますか？/可能でしょうか？>
(返品|交換)の(期限|期間)は(いつまで|何日以内)<？/ですか？/でしょうか？>
{t}{v}を(別の巻|新しいもの|他の本)と交換<して/してください/していただけますか>
返品(方法|の手順|手続き)を<教えて/教えてください/お教えいただけますか>
(開封|読んだ)後でも(返品|返金|交換)<できる？/できますか？/可能でしょうか？>
返送の送料は(どっち|どちら)が(払う|負担する)<の？/のですか？/のでしょうか？>
(返金|払い戻し)は(いつ|何日後に)(入る|振り込まれる)<？/のですか？/のでしょうか？>
もういらないから(本|漫画|商品)を<返したい/返したいです/お返ししたいのですが>
同じ巻を二冊買って<しまった/しまいました>。一冊返品<できる？/できますか？/させていただけますか？>
(商品|本)を返送する(住所|宛先|送り先)を<教えて/教えてください/お知らせいただけますか>
{o}の(商品|本)を(返品|返金)<頼む/お願いします/お願いいたします>
(不良品|破れた本)を新しいものに(交換|取り替え)<して/してください/していただけますでしょうか>
返品(ポリシー|の条件|の規約)は<どうなってる？/どうなっていますか？/どのようになっておりますか？>
お金を返して<ほしい/ほしいです/いただきたいのですが>。{t}はもう送り返した
届いた(本|漫画)が(思ったもの|イメージ)と違ったので<返したい/返品したいです/返品をお願いしたく存じます>
(クーリングオフ|返品)(の対象|の条件)に{t}は(なる|入る)<？/のですか？/のでしょうか？>
返品用の(ラベル|伝票|用紙)は<ある？/ありますか？/ございますか？>
プレゼントでもらった(本|漫画)でも(交換|返品)して<くれる？/もらえますか？/いただけますか？>
(返金|返品)の(状況|手続き)は(終わった|済んだ|進んでる)<？/のですか？/のでしょうか？>
(電子書籍|全巻セット)の払い戻しは<可能？/可能ですか？/承っていただけますか？>
""",
        "en": """
<i wanna/i would like to> return (my order|{t}|a book|this manga)
how (do|can) i (return|send back) (a book|an item|{t})?
<can i/may i> get a refund( for {t}|)?
what is your (return|refund|exchange) policy?
i (bought|ordered) the wrong (volume|book), can i (exchange|return|swap) it?
(exchange|swap) {t} {v} for (another volume|a new copy)<, can you?/, please>
how long do i have to (return|send back) (an item|a book)?
when will i (get|receive) my (refund|money back)?
who pays for return (shipping|postage)?
can i (return|send back) a (book|manga) (after opening it|i have already read|that is opened)?
i want my money back( for {t}|)
<need/i need> a return (label|form|address)
i (accidentally|by mistake) (bought|ordered) two copies, can i (return|refund) one?
i (don't want|no longer want) {t}, (take it back|how do i send it back)
where (do|should) i (send|mail) (returns|the book back)?
is {t} (returnable|refundable)?
please (refund|process a refund for) order {o}
i got {t} as a gift, (may|can) i exchange it( for another title|)?
has my (refund|return) been (processed|accepted|approved)( yet|)?
the book is not what i expected, <id like/i would like> to (return|send) it (back|)
do you (accept|take) (returns|exchanges) on (box sets|used books|digital books)?
replace my (torn|damaged) copy (with|for) a new one( please|)
start a (return|refund|exchange) for (order |){o}
""",
    },
    "cancel_order": {
        "ja": """
注文を(キャンセル|取り消し)<したい/したいです/させていただきたいのですが>
{o}を(キャンセル|取り消し)<して/してください/していただけますか>
{t}の注文を(やめたい|取り消したい|キャンセルしたい)<んだけど/のですが/のでございますが>
(まだ|今から)(キャンセル|取り消し)は<間に合う？/間に合いますか？/間に合いますでしょうか？>
(キャンセル|取り消し)(方法|のやり方|の手順)を<教えて/教えてください/お教えいただけますか>
間違えて(注文|購入)した(から|ので)(キャンセル|取り消し)<頼む/お願いします/お願いいたします>
発送前なら(キャンセル|取り消し)<できる？/できますか？/可能でしょうか？>
(キャンセル|取り消し)料(は|って)<かかる？/かかりますか？/発生しますでしょうか？>
やっぱり{t}は(いらない|やめる|買わない)ので注文を(消して|止めて|なしにして)<くれる？/ください/いただけますか>
二重に注文した(ので|から)(片方|一つ)を(キャンセル|取り消し)<して/してください/していただけますか>
(さっき|{past})の注文、(取り消せる|キャンセルできる)<？/でしょうか？/のでしょうか？>
予約した{t}の(予約|注文)を取り消<したい/したいです/させていただきたく存じます>
キャンセル(ボタン|の画面)が(見つからない|どこにもない)<んだけど/のですが>
{t}{v}だけ(注文から外して|キャンセルして|取り消して)<ほしい/ほしいです/いただけますか>
(オーダー|注文){o}の(取り消し|キャンセル)は(できた|完了した)<？/のですか？/のでしょうか？>
(発送|出荷)を止めて<！/ください/いただけますか>、{o}は(もういりません|キャンセルします)
買うのを(やめた|やめました|やめることにしました)。注文を(取り消して|キャンセルして)
注文の(一部|全部)を(キャンセル|取り消し)することは<できる？/できますか？/可能でしょうか？>
(気が変わった|都合が悪くなった)ので注文は<なしで/なしでお願いします/取り消しでお願いいたします>
キャンセルの(締め切り|期限)は(いつ|何時)まで<？/ですか？/でしょうか？>
""",
        "en": """
(cancel|stop) my order( please| {o}|)
<i wanna/i would like to> cancel (order {o}|my order|the order for {t})
how (do|can) i cancel (an order|my order|order {o})?
is it too late to cancel( my order|)?
can i (still|) cancel (before it ships|my order from {past})?
i (changed my mind|no longer need it), (cancel|please cancel) {t}
i ordered (the wrong book|twice|two by mistake), please cancel (one|it)
is there a (cancellation|cancel) (fee|charge)?
<dont/please do not> (ship|send) {o}, i want to cancel( it|)
(remove|take) {t} {v} (off|from) my order
where is the cancel button?
(cancel|please cancel) my (pre-order|reservation) (of|for) {t}
can you (stop|cancel) the (shipment|order) before it (leaves|goes out)?
i (don't|do not) want (the order|order {o}) anymore, cancel (it|that)
until when can i cancel( an order|)?
<could u/could you please> (void|undo|cancel) the (purchase|order) i (made|placed) {past}?
i placed (an order|order {o}) by accident, (undo|cancel) it
my order {o} (has to|should) be cancelled
did my cancellation (go through|work)( for {o}|)?
call off my order( for {t}|)
""",
    },
}
