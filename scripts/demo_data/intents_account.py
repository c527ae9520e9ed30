"""Sentence families of the intents about payment, account, complaints and a human agent
(notation: see `grammar.py`)."""

FAMILIES: dict[str, dict[str, str]] = {
    "payment": {
        "ja": """
(支払い方法|お支払い方法|決済方法)を<教えて/教えてください/お教えいただけますか>
(クレジットカード|カード)は<使える？/使えますか？/利用できますでしょうか？>
(代引き|コンビニ払い|銀行振込|後払い)は<できる？/できますか？/可能でしょうか？>
(カード|クレジットカード)が(通らない|使えない|エラーになる)<んだけど/のですが/のでございますが>
(領収書|請求書)を(出して|発行して|送って)<くれる？/ください/いただけますか>
(分割払い|リボ払い|ボーナス払い)に(対応|)(できる|してる)<？/んですか？/のでしょうか？>
(電子マネー|QRコード決済|スマホ決済)で(払える|支払える)<？/んですか？/のでしょうか？>
支払い(期限|の締め切り)は<いつまで？/いつまでですか？/いつまででしょうか？>
二重に(請求|引き落とし)<された/されています/されているようなのですが>
(支払い|決済)(方法|のカード)を(変更|変え)<したい/したいです/させていただきたいのですが>
(ギフトカード|商品券|ポイント)で(払う|支払う)ことは<できる？/できますか？/可能でしょうか？>
(支払い|決済)が(完了|済んだ)したか(確認|チェック)<して/してください/していただけますか>
いつ(カード|口座)から(引き落とされる|請求される)<の？/のですか？/のでしょうか？>
(銀行振込|振込)の(口座番号|振込先)を<教えて/教えてください/お知らせいただけますか>
(代引き|コンビニ払い|振込)の手数料は<いくら？/いくらですか？/おいくらでしょうか？>
(カード|クレジットカード)(情報|番号)の(登録|入力)は(安全|大丈夫)<？/ですか？/でしょうか？>
{o}の(支払い|入金|決済)が(できない|失敗した|反映されない)<んだけど/のですが>
(明細|カードの明細)に(知らない|覚えのない)請求が<ある/あります/ございます>
(現金|デビットカード|海外のカード)でも(支払い|決済)<できる？/できますか？/可能でしょうか？>
(会社名|宛名)を入れた(領収書|請求書)が<ほしい/ほしいです/必要なのですが>
(払い込み票|支払い番号)を(なくした|忘れた)<んだけど/のですが>どうやって(払えば|支払えば)？
支払いは(先|後|前払い)<？/ですか？/でしょうか？>どの(カード|方法)が使えますか
""",
        "en": """
(what|which) payment methods do you (accept|take)?
<can i/may i> pay (by|with) (credit card|paypal|bank transfer|cash)?
my (card|credit card|payment) was (declined|rejected)
do you (accept|take) (credit cards|gift cards|paypal|apple pay|foreign cards)?
i (was|got) charged twice( for order {o}|)
<can u/could you please> send me (an invoice|a receipt)( for {o}|)?
my payment (failed|did not go through|keeps failing)
can i pay in (installments|monthly parts)?
how do i change my payment (method|card)?
when will (my card|i) be charged?
(payment|checkout) (error|problem)( with my card|)
is it safe to (pay|use my card|enter my card number) (here|on your site)?
(has|did) my payment (gone through|been received|go through)( for {o}|)?
is cash on delivery (possible|available|accepted)?
there is (a charge|an unknown charge) (on my card|on my statement) from (you|your shop)
what is the (fee|charge) for (cash on delivery|bank transfer)?
i need (an invoice|a receipt) with my company name( on it|)
(which|what) bank account (do|should) i (transfer|send) the money to?
until when (do|must) i pay (for my order|{o}|the bill)?
can i (split|divide) the payment (between|over) (two cards|three months)?
(pay|paying) with (points|a gift card|a voucher): (how|is that possible)?
<i wanna/i would like to> (use|pay with) (a different|another) (card|payment method) for {o}
checkout (won't|will not|does not) (take|accept) my (card|visa|debit card)
""",
    },
    "account": {
        "ja": """
パスワードを<忘れた/忘れました/忘れてしまったのですが>
(ログイン|サインイン)が(できない|できません)<んだけど//のですが>
(メールアドレス|住所|電話番号|名前)を(変更|変え)<したい/したいです/させていただきたいのですが>
(退会|アカウント削除)<したい/したいです/させていただきたいのですが>
(会員登録|新規登録)(の方法|のやり方|の手順)を<教えて/教えてください/お教えいただけますか>
(アカウント|マイページ)に(入れない|アクセスできない)<んだけど/のですが/のでございますが>
(パスワード|暗証番号)の(再設定|変更|リセット)を<したい/したいです/お願いいたします>
(認証コード|確認メール|登録メール)が<届かない/届きません/届かないのですが>
(ポイント|会員ランク)は(どこ|どの画面)で(見られる|確認できる)<？/のですか？/のでしょうか？>
(メルマガ|メールマガジン|お知らせメール)の(配信を止めたい|解除|停止)<したい/お願いします/お願いいたします>
(アカウント|会員情報)を(消して|削除して|解約して)<ほしい/ください/いただけますか>
会員登録(しないと|なしだと)(買えない|利用できない)<？/のですか？/のでしょうか？>
(ユーザー名|IDとパスワード|会員番号)が(分からない|思い出せない)<んだけど/のですが>
引っ越したので(登録|アカウント)の住所を(変えて|直して|更新して)<ほしい/ください/いただけますか>
アカウントが(ロック|停止|乗っ取り)<された/されました/されたようなのですが>
(二段階認証|生体認証)の(設定|解除)は<どうやる？/どうやりますか？/どのようにすればよろしいでしょうか？>
(マイページ|会員ページ)の(名前|電話番号)が(間違ってる|古いまま)<んだけど/のですが>
(二つ|複数)の(アカウント|会員登録)を一つに(まとめたい|したい)<//のですが>
(登録|会員)の(情報|メール)は(どこ|どうやって)(変える|変更する)<の？/のですか？/のでしょうか？>
(新しい|別の)(アカウント|ID)を(作りたい|登録したい)<//のですが>
何度(パスワード|ID)を入れても(ログインできない|エラーが出る|入れない)
(会員|登録)を(やめたい|やめます|解約したい)<//のですが>
""",
        "en": """
i (forgot|lost) my password
i (can't|cannot|am unable to) (log in|sign in|login)( to my account|)
how do i (change|update) my (email|address|phone number|name)?
<i wanna/i would like to> (delete|close) my account
how (do|can) i (create|open|make) an account?
(reset|change) my password( please|)
my account (is|was|got) (locked|hacked|suspended)
i (did not|didn't) (get|receive) the (verification|confirmation|sign up) (code|email)
where can i see my (points|membership|order history)?
(unsubscribe|remove) me from (the newsletter|your mailing list|emails)
<can u/could you please> (update|change) (the email|the address) (on|in) my (account|profile)?
do i need an account to (buy|order)?
i (moved|have moved), (please |)update my (address|profile)
what is my (username|member id|login)? i (can't remember|forgot) it
(turn on|set up|disable) two factor (login|authentication) (for|on) my account
the (site|app) (keeps logging me out|says wrong password|won't let me sign in)
can i (merge|combine) (two|my) accounts?
someone (else|) (logged into|is using|got into) my account
my (profile|account) (shows|has) the wrong (name|email|phone number)
how do i (register|sign up|become a member)?
cancel my (membership|account|newsletter)
the password reset (email|link) (never came|does not work|has expired)
""",
    },
    "complaint": {
        "ja": """
届いた(本|漫画|商品)が(破れて|汚れて|壊れて|折れて)<た/いました/おりました>
(違う|間違った)(商品|本|巻)が<届いた/届きました/届いたのですが>
(対応|接客|サービス)が(悪い|ひどい|最悪)<！/です/と感じました>
(梱包|包装)が(雑|ひどい)で{t}が(曲がって|傷ついて|濡れて)<た/いました/おりました>
{t}の(ページ|カバー)が(抜けて|破れて|汚れて)<る/います/おります>
(何度|何回)(連絡|メール)しても返事が<ない/ありません/ございません>
(遅すぎる|遅い)！もう(二度と|絶対)(買わない|利用しない|使わない)
(新品|未使用)なのに(傷|汚れ|シミ)が<ある/あります/ございました>、(がっかり|残念)
(クレーム|苦情|文句)を言い<たい/たいです/たく存じます>
{t}を注文したのに(別の本|{v}じゃない巻|違うもの)が(入って|届いて)<た/いました/おりました>
(特典|おまけ|帯)が(入って|付いて)(なかった|いなかった)</です/のですが>
(説明|写真)と(全然|まったく)違う(商品|本)で(がっかり|困って)<した/しました/いたしました>
箱が(つぶれて|潰れて|濡れて)いて中の(本|漫画)も(ぐちゃぐちゃ|ボロボロ)<だった/でした/でございました>
(不良品|乱丁|落丁)<だった/でした/でございました>、{t}{v}
(スタッフ|店員|電話の人)の(態度|言い方)が(失礼|ひどい)<だった/でした/でございました>
{v}が(足りない|入ってない|一冊少ない)<！/です/ようでございます>セットで買ったのに
(とても|本当に)(不満|残念|がっかり)<だ/です/に思っております>。(約束|予定)の日に(来なかった|届かなかった)
(こんな|これほど)(ひどい|汚い)(本|状態)を(送る|売る)なんて(信じられない|ありえない)
届いた(箱|商品)を(開けたら|見たら){t}が(破れて|ボロボロで|水に濡れて)<た/いました/おりました>
(サイト|アプリ)が(重くて|使いにくくて|何度も落ちて)(イライラする|困る|最悪)<//です>
(お店|御社|この店)の(やり方|対応)には(がっかり|納得できない|怒って)<//います>
(中古|汚れた本)みたいな(漫画|商品)が(来た|届いた)<//のですが>、どういうこと(ですか|なの)？
""",
        "en": """
my (book|manga|copy of {t}) (arrived|came) (damaged|torn|broken|dirty)
you sent (me |)the wrong (book|volume|item)
(this is|your) (terrible|awful|horrible) service( is unacceptable|)
the (pages|cover) of {t} (are|is) (missing|torn|bent|stained)
i (want|would like) to (complain|make a complaint|file a complaint)
nobody (answers|replies to) my (emails|messages|calls)
i am (very |really |)(unhappy|disappointed|angry) with (my order|your service|the quality)
the (packaging|box) was (bad|crushed|wet|terrible) and {t} (is|was) (bent|damaged|ruined)
(late again|it was so late), i will never (buy|order|shop) here again
i ordered {t} but (got|received) (something else|a different book)
the (bonus|poster|extra) was (missing|not included|not in the box)
your (staff|support|agent) was (rude|very rude|unhelpful)
the book (looks|is) used (but i paid for new|though i bought a new one)
(worst|what a terrible|what an awful) (shop|store|experience)( ever|)
there is a (scratch|stain|hole|tear) (on|in) (my new book|the cover|{t})
one volume (is|was) missing from (my|the) (box set|set|box)
(this|the item) is not (as described|like the picture|what the page says), (so disappointed|i am upset)
how can you (send|sell) (books|something) in (this|such a bad) (state|condition)
your (site|app) (is so slow|keeps crashing|is a mess) and i am (fed up|annoyed)
(opened|i opened) the (box|parcel) and {t} was (wet|torn|in pieces|damaged)
the print (quality|) of {t} is (bad|awful|blurry)( and pages are upside down|)
(you promised|it should have come) {soon} and (nothing came|it was late), (very disappointing|this is unacceptable)
""",
    },
    "human_agent": {
        "ja": """
(担当者|オペレーター|スタッフ|人間)と話<したい/したいです/させていただきたいのですが>
(人間|オペレーター|担当者)に(つないで|代わって|繋いで)<くれる？/ください/いただけますか>
(電話|直接)で(話|相談)<したい/したいです/させていただきたいのですが>
(電話番号|問い合わせ先|連絡先)を<教えて/教えてください/お教えいただけますか>
(ボット|AI|機械)じゃなくて(人|人間|担当の人)(と話したい|がいい|をお願い)<//します>
(カスタマーサポート|サポート窓口|お客様窓口)に(連絡|電話)<したい/したいです/させていただきたいのですが>
(折り返し|店員さんから)(電話|連絡)<して/してください/していただけますか>
(問い合わせ|お問い合わせ)(フォーム|窓口)は<どこ？/どこですか？/どちらでしょうか？>
(責任者|店長|上の人)を(呼んで|出して)<くれる？/ください/いただけますか>
(有人|人間の)(チャット|サポート|対応)に(切り替えて|変えて)<くれる？/ください/いただけますか>
(電話|チャット|有人対応)の(受付時間|営業時間)は(何時|いつ)(まで|から)<？/ですか？/でしょうか？>
(店員|スタッフ|係の人)に(相談|質問|直接聞くこと)<できる？/できますか？/可能でしょうか？>
誰か(人|担当者|スタッフ)は(いない|いませんか)<の？//でしょうか？>
(ロボット|ボット)では(話にならない|分からない|だめだ)、(人|オペレーター)を<出して/お願いします/お願いいたします>
(メール|電話)で(サポート|担当者|店員)に(直接|)(聞きたい|問い合わせたい)<//のですが>
あなたは(人間|ロボット|機械)<？/ですか？/でしょうか？>(本物の|)(人|担当者)に代わって
オペレーター<頼む/お願いします/をお願いいたします>
(担当|係)の(方|人)に(取り次いで|繋いで|つないで)<ほしい/ほしいです/いただきたく存じます>
自動(応答|返信)じゃなく(スタッフ|人間|店員)の(返事|対応)が<ほしい/ほしいです/欲しいのですが>
サポートの(人|担当者)は(いつ|何時に)(電話|連絡)に(出る|出られる)<？/のですか？/のでしょうか？>
""",
        "en": """
<let me/i would like to> (talk|speak) to (a human|a person|an agent|someone)
(human|agent|representative|operator)( please|)
(connect|transfer|put) me (to|through to) (a human|an agent|customer service|a person)
<can i/may i> (speak|talk) (to|with) (a real person|someone|customer support|your staff)?
what is your (phone number|customer service number|support email)?
i (don't|do not) want (to talk to |)a (bot|robot|machine)
how (do|can) i (contact|reach|call) (support|customer service|you)?
(call|phone) me (back|)( please|)
<get/please get> me (your manager|the manager|a supervisor)
is there a (live|real) (person|agent|human) (here|i can talk to|i could chat with)?
are you a (bot|robot|machine)? (i need|give me) a (person|human)
(live|human) (chat|support|agent) (please|now|available?)
when is (your phone line|phone support|customer service) open?
i (need|want) (help from|to chat with) a (human|member of staff|staff member|person)
(stop|enough with) the (bot|automatic replies), (a human|a person|an agent) please
could (someone|a person|an employee) (from your team |)(call|contact|email) me?
(switch|change) (me |)to (a human|live chat|an operator)
where do i (find|get) (your contact form|the contact page|your hotline)?
i'd rather (speak|chat|talk) with (one of your staff|a clerk|an actual person)
(this bot|you) (does not|do not|cannot) understand me, (get|find|give) me (an agent|a human|someone real)
""",
    },
}
