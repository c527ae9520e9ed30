"""Key phrases of the intents, which carrier sentences hold (`carriers.py`).

A phrase is a noun phrase (`N`), a verb phrase (`V`), a clause (`S`) or an utterance of its own
(`B`). Phrases are the words of the trade and are on both sides of the split.
"""

PHRASES: dict[str, dict[str, dict[str, str]]] = {
    "order_status": {
        "ja": {
            "N": (
                "注文状況|配送状況|追跡番号|お問い合わせ番号|伝票番号|荷物の現在地|注文の進捗|お届け予定日|荷物の追跡|発送済みかどうか|確認メール|出荷状況"
                "|注文{o}の状況|頼んだ本の到着日|注文履歴のステータス"
            ),
            "V": "荷物を追跡する|注文状況を確認する|荷物の場所を調べる|お届け予定日を確認する|追跡番号を見る",
            "S": (
                "荷物がまだ届かない|注文した本が来ない|発送の連絡がない|追跡が更新されない|準備中のままになっている|注文が通っているか分からない|確認メールが来ない"
                "|配達済みなのに荷物がない|{past}頼んだ{t}がまだ着かない"
            ),
        },
        "en": {
            "N": (
                "my order status|the tracking number|my parcel|my package|the status of order {o}"
                "|the arrival date of my order|the tracking link|the delivery of my order"
                "|where my books are|the dispatch email|my confirmation email"
                "|the location of my package"
            ),
            "V": (
                "track my parcel|track my package|check my order status|find my order"
                "|see where my order is|check when my books arrive|look up order {o}"
            ),
            "S": (
                "my order has not arrived|my package is not here yet|my order is still processing"
                "|i have no tracking number|no confirmation came|the tracking does not update"
                "|my parcel is late|i ordered {t} {past} and it is not here"
                "|the books i ordered have not been shipped"
            ),
        },
    },
    "shipping": {
        "ja": {
            "N": (
                "送料|配送料|配送方法|海外発送|海外への配送|日時指定|お急ぎ便|翌日配送|コンビニ受け取り|離島への配送|送料無料の条件|配達時間帯|置き配|宅配ボックス"
                "|運送会社|梱包方法|配送日数|{p}への送料|国際便|船便と航空便|土日の配達|追加料金"
            ),
            "V": "海外に発送する|{p}に送る|コンビニで受け取る|日時を指定する|まとめて発送する|別の住所に送る|速達で送る",
            "S": "{p}に住んでいる|送料がいくらか分からない|何日で届くか気になる|送料を無料にしたい|早く配送してほしい|友達の家に送りたい",
        },
        "en": {
            "N": (
                "shipping costs|the shipping fee|the delivery fee|free shipping|overseas shipping"
                "|international delivery|express delivery|next day delivery|delivery times"
                "|the delivery date and time|delivery options|postage|shipping to {p}"
                "|the courier you use|packaging for shipping|weekend delivery|import tax"
                "|pick up at a store"
            ),
            "V": (
                "ship to {p}|deliver to {p}|ship overseas|choose a delivery date"
                "|get free shipping|send a gift to another address|pick up at a convenience store"
                "|ship books together"
            ),
            "S": (
                "i live in {p}|i need express delivery|i want a delivery on sunday"
                "|i want to combine shipping|i do not know the shipping fee"
            ),
        },
    },
    "returns": {
        "ja": {
            "N": (
                "返品|返金|交換|払い戻し|返品方法|返品期限|返品の条件|返送先の住所|返送の送料|返金の時期|返品用の伝票|不良品の交換|{t}の返品|返品ポリシー"
                "|返金の状況|開封後の返品|クーリングオフ|間違えて買った本の返品"
            ),
            "V": "返品する|本を返す|返金してもらう|新しいものと交換する|商品を送り返す|別の巻に取り替える|お金を返してもらう",
            "S": "買った本を返したい|お金を返してほしい|返金がまだない|間違えて買ってしまった|同じ巻を二冊買ってしまった|イメージと違ったので返したい|返品の箱を送り返した",
        },
        "en": {
            "N": (
                "returns|a refund|an exchange|the return policy|return postage|a return label"
                "|my refund|the refund for {t}|the deadline for returns|the return address"
                "|returning an opened book|money back"
            ),
            "V": (
                "return a book|return {t}|send back my order|get a refund|get my money back"
                "|exchange a book|exchange {t} for another volume|swap it for a new copy"
                "|return an opened manga|replace a torn copy"
            ),
            "S": (
                "i want my money back|i bought the wrong volume"
                "|i bought two copies by mistake and want to return one|my refund has not come"
                "|i sent the book back|i do not want this book and want to send it back"
            ),
        },
    },
    "cancel_order": {
        "ja": {
            "N": (
                "注文のキャンセル|キャンセル|注文の取り消し|キャンセル方法|キャンセル料|キャンセルの期限|予約の取り消し|{t}のキャンセル|{o}のキャンセル"
                "|発送前のキャンセル|キャンセルボタン|一部キャンセル"
            ),
            "V": "注文をキャンセルする|注文を取り消す|発送を止める|予約を取り消す|{t}の注文をやめる|注文をなしにする|注文から外す",
            "S": (
                "注文をやめたい|やっぱりいらないので取り消したい|間違えて注文したので取り消したい|二重に注文したので片方を消したい|キャンセルできない"
                "|気が変わったのでキャンセルしたい|発送を止めたい"
            ),
        },
        "en": {
            "N": (
                "a cancellation|cancelling my order|the cancel button|the cancellation fee"
                "|cancelling order {o}|the cancellation of {t}|the deadline for cancelling"
            ),
            "V": (
                "cancel my order|cancel order {o}|cancel {t}|stop my order|stop the shipment"
                "|undo my purchase|remove {t} from my order|cancel a pre-order|call off the order"
            ),
            "S": (
                "i want to cancel|i ordered by mistake and want to cancel"
                "|i changed my mind about the order|i do not want the order anymore"
                "|i placed the order twice, cancel one|my cancellation did not go through"
            ),
        },
    },
    "recommendation": {
        "ja": {
            "N": (
                "おすすめの漫画|人気の作品|面白い漫画|{g}のおすすめ|話題の漫画|泣ける漫画|笑える作品|初心者向けの漫画|{t}に似た漫画|プレゼントにいい漫画"
                "|店員さんのおすすめ|{g}の名作|次に読む漫画|流行りの作品|子ども向けの漫画|一気に読める漫画|短く完結する面白い作品"
            ),
            "V": "面白い漫画を見つける|次に読む本を選ぶ|好みに合う作品を探す|{g}の漫画を選ぶ",
            "S": (
                "{g}の漫画が読みたい|何か面白いものが読みたい|{t}みたいな作品が読みたい|何を読めばいいか迷っている|{t}が好きで似た作品を探している"
                "|{t}を読み終わって次を探している|暇なので何か読みたい"
            ),
        },
        "en": {
            "N": (
                "a good manga|a {g} manga|popular series|something like {t}|a fun series"
                "|your favourite manga|the best {g} series|a manga for beginners"
                "|a gift for a manga fan|trending manga|recommendations|suggestions|top titles"
                "|manga similar to {t}|a manga for kids"
            ),
            "V": (
                "find a good manga|choose my next series|pick a {g} story"
                "|find something similar to {t}|discover fun series"
                "|pick a gift for a friend who reads manga"
            ),
            "S": (
                "i like {t} and want something similar|i want something good to read"
                "|i love {g} stories|i do not know what to read next"
                "|i am bored and want a good manga|i enjoyed {t} and need a similar series"
                "|i am in the mood for {g}"
            ),
        },
    },
    "availability": {
        "ja": {
            "N": (
                "{t}の在庫|在庫|再入荷|入荷予定|在庫状況|{t}の再入荷|{t}{v}の在庫|店舗の在庫|売り切れの本|品切れの商品|{t}の取り扱い|重版の予定|再販"
                "|絶版の漫画|次の入荷|残りの冊数|入荷のお知らせ|{t}の英語版"
            ),
            "V": "{t}を手に入れる|在庫を調べる|入荷の通知を受け取る|絶版の本を手に入れる|{t}を店舗で買う",
            "S": (
                "{t}が売り切れている|{t}が見つからない|{t}が品切れになっている|{t}の在庫があるか気になる|{t}を置いているか分からない"
                "|{t}{v}がまだ残っているか心配|入荷したら知らせてほしい"
            ),
        },
        "en": {
            "N": (
                "the stock of {t}|a copy of {t}|{t} in stock|the availability of {t}"
                "|a restock of {t}|a restock|copies of {t} in your store|sold out volumes"
                "|the english version of {t}|the next shipment of {t}|an out of print manga"
                "|stock at your {p} store"
            ),
            "V": (
                "find {t} in your shop|get {t} {v} while it is in stock"
                "|get a notice when {t} is back in stock|check the stock of {t}"
                "|find out of print books"
            ),
            "S": (
                "{t} is sold out|{t} is out of stock|i cannot find {t} in your shop"
                "|i wonder if you have {t}|{t} is unavailable|i hope you still have {t}"
                "|you have no copies of {t} left"
            ),
        },
    },
    "price": {
        "ja": {
            "N": (
                "値段|価格|{t}の値段|{t}{v}の価格|割引|セール|クーポン|割引コード|全巻セットの値段|学生割引|会員割引|まとめ買いの割引|税込価格|キャンペーン"
                "|{t}の金額|次のセール|中古の値段|定価|お得なセット|見積もり"
            ),
            "V": "安く買う|クーポンを使う|割引してもらう|{t}をお得に買う|セール価格で買う",
            "S": "{t}がいくらか分からない|値段が高すぎる|もっと安くしてほしい|割引があるか気になる|クーポンが使えない|値下げしてほしい|セールを待っている",
        },
        "en": {
            "N": (
                "the price|the price of {t}|the cost of {t}|a discount|a coupon|a discount code"
                "|the next sale|the price of the box set|student discounts|deals|cheap manga"
                "|the total price of {n} volumes|a quote for {t}|a cheaper edition"
                "|the price with tax|bulk discounts"
            ),
            "V": (
                "get a discount|use a coupon|buy {t} cheaper|save money on {t}"
                "|pay less for the full set|get a lower price"
            ),
            "S": (
                "{t} is too expensive|i do not know how much {t} costs|i have a coupon"
                "|the price of {t} changed|i want a cheaper copy|i am waiting for a sale"
                "|i wonder what {t} costs"
            ),
        },
    },
    "preorder": {
        "ja": {
            "N": (
                "新刊の予約|予約|{t}の予約|予約特典|発売日|{t}の発売日|予約の締め切り|限定版の予約|先行予約|予約開始日|{t}の新刊|次の巻の発売|初回限定版"
                "|取り置き|特装版の予約|発売の延期|{t}の最新刊|予約受付"
            ),
            "V": "新刊を予約する|{t}を予約する|発売前に注文する|{t}の新刊を取り置きする|限定版を予約する|サイン本を予約する",
            "S": (
                "{t}の新刊を予約したい|発売日がいつか分からない|新刊が出るのを待っている|予約が始まったか気になる|発売が延期になった|発売日に届いてほしい"
                "|限定版を確保したい"
            ),
        },
        "en": {
            "N": (
                "a pre-order|a preorder of {t}|the release date|the release date of {t}"
                "|the next volume of {t}|the pre-order bonus|the limited edition|a reservation"
                "|the new volume|upcoming releases|reserving {t} {v}|the signed edition"
                "|advance orders|the delayed release of {t}"
            ),
            "V": (
                "pre-order {t}|preorder the new volume|reserve {t} {v}"
                "|reserve the limited edition|order {t} before release"
                "|book the next volume in advance|sign up for new releases"
            ),
            "S": (
                "{t} {v} is not released yet|i want the new volume on release day"
                "|i am waiting for the release of {t}|the release of {t} was delayed"
                "|the new {t} comes out soon|i want to reserve the next volume"
            ),
        },
    },
    "series_order": {
        "ja": {
            "N": (
                "{t}の読む順番|シリーズの順番|{t}の巻数|続編|外伝|{t}の続編|番外編|完結しているかどうか|最終巻|スピンオフ|時系列|前日譚"
                "|{t}の第一部と第二部|何巻から読むか|全巻数|本編と外伝の順|新装版の何巻か"
            ),
            "V": "{t}を順番に読む|シリーズを最初から読む|外伝を先に読む|続編から読む|{v}を飛ばして読む",
            "S": (
                "{t}をどの順番で読むか分からない|{t}が全何巻か知らない|{t}が完結したか気になる|続編があるか知らない|どの巻から始めるか迷っている"
                "|連載がまだ続いているか知らない|本編より外伝を先に読みたい"
            ),
        },
        "en": {
            "N": (
                "the reading order of {t}|the reading order|the sequel to {t}|the prequel"
                "|the spin-off|the last volume of {t}|the number of volumes of {t}"
                "|the first volume of {t}|the timeline of {t}|the order of the series"
                "|side stories|the ending of {t}|part two of {t}|how many volumes {t} has"
            ),
            "V": (
                "read {t} in order|start {t} from {v}|skip {v} of {t}|read the prequel first"
                "|read the sequel before the main story|begin the series {t}"
            ),
            "S": (
                "i do not know which volume of {t} comes first|{t} is a long series and i am new"
                "|i do not know if {t} is finished|i wonder if {t} has a sequel"
                "|i finished {v} of {t} and do not know which volume is next"
                "|i read the spin-off before the main story|{t} has ended or is ongoing"
            ),
        },
    },
    "payment": {
        "ja": {
            "N": (
                "支払い方法|お支払い|クレジットカード|代引き|コンビニ払い|銀行振込|領収書|請求書|分割払い|電子マネー|支払い期限|後払い|二重請求|カードの決済"
                "|振込先の口座|手数料|引き落とし日|ギフトカードでの支払い|決済エラー|カードの明細の請求|デビットカード|入金の確認|スマホ決済"
            ),
            "V": "カードで払う|銀行振込で支払う|領収書を発行する|支払い方法を変える|分割で払う|コンビニで支払う|現金で払う|ポイントで払う",
            "S": "カードが使えない|決済が失敗した|支払いができない|二重に請求された|覚えのない請求がある|支払い番号をなくした|支払いが反映されない|引き落としが二回あった",
        },
        "en": {
            "N": (
                "payment methods|my payment|credit cards|cash on delivery|bank transfer|a receipt"
                "|an invoice|installments|paypal|gift cards|a double charge|the charge on my card"
                "|my card|the due date of my payment|the payment fee|the checkout error"
                "|an invoice for {o}|debit cards"
            ),
            "V": (
                "pay by card|pay with paypal|pay by bank transfer|pay in installments"
                "|change my payment method|get a receipt|get an invoice|pay with points"
                "|use another card|split the payment|pay my bill"
            ),
            "S": (
                "my card was declined|my payment failed|i was charged twice|i cannot pay"
                "|the checkout rejects my card|there is an unknown charge on my card"
                "|my bank transfer is not confirmed|i need a receipt"
            ),
        },
    },
    "account": {
        "ja": {
            "N": (
                "パスワード|ログイン|アカウント|会員登録|退会|メールアドレスの変更|住所変更|マイページ|パスワードの再設定|認証コード|メルマガの配信|会員情報"
                "|二段階認証|ユーザー名|会員ランク|ポイントの確認画面|アカウントの削除|登録情報|会員番号|お知らせメールの停止|ログインエラー"
            ),
            "V": (
                "パスワードを変更する|退会する|会員登録をする|アカウントを削除する|メールアドレスを変える|登録の住所を直す|ログインする|メルマガを止める|アカウントを作る"
                "|会員をやめる"
            ),
            "S": (
                "パスワードを忘れた|ログインできない|アカウントに入れない|認証コードが届かない|アカウントがロックされた|会員番号が思い出せない|登録の名前が間違っている"
                "|引っ越して住所が変わった|マイページが開けない|アカウントが乗っ取られた"
            ),
        },
        "en": {
            "N": (
                "my password|my account|my login|my profile|my email address|account deletion"
                "|the verification code|the newsletter|two factor login|my username|my membership"
                "|a password reset|signing up|my member points|my address in the account"
                "|the sign in page|registration"
            ),
            "V": (
                "reset my password|change my email|update my address|delete my account"
                "|close my account|create an account|log in|sign up"
                "|unsubscribe from the newsletter|change my phone number|merge two accounts"
                "|change my name in my profile|register"
            ),
            "S": (
                "i forgot my password|i cannot log in|my account is locked"
                "|i did not get the verification code|someone hacked my account"
                "|i moved and my address changed|i forgot my username"
                "|the site says wrong password|my profile shows the wrong name"
                "|the reset link has expired"
            ),
        },
    },
    "complaint": {
        "ja": {
            "N": (
                "届いた本の破れ|ひどい対応|商品の汚れ|ページの抜け|梱包のひどさ|本の傷|不良品|失礼な店員|間違った商品|接客への不満|クレーム|苦情|つぶれた箱|乱丁"
                "|最悪のサービス|特典の入れ忘れ"
            ),
            "V": "苦情を言う|クレームを入れる|不満を伝える",
            "S": (
                "届いた本が破れている|{t}が汚れている|違う本が届いた|対応がひどい|店員の態度が悪い|ページが抜けている|箱がつぶれて本が折れている|新品なのに傷がある"
                "|特典が入っていない|約束の日に来なくてがっかりした|何度連絡しても返事がない|本が濡れてボロボロだ|説明と全然違ってがっかりした|サービスが最悪だ"
                "|サイトが重くてイライラする|一冊足りない|もう二度と買わない|本当に不満だ"
            ),
        },
        "en": {
            "N": (
                "a damaged book|a torn cover|the wrong item|bad service|rude staff|missing pages"
                "|a dirty copy|terrible packaging|a complaint|a crushed box|poor quality"
                "|the missing bonus|a scratched book|awful support"
            ),
            "V": (
                "complain|make a complaint|file a complaint about the service|complain about {t}"
                "|report a damaged book"
            ),
            "S": (
                "my book arrived damaged|{t} came torn|you sent the wrong book"
                "|the pages are missing|your staff was rude|the box was crushed"
                "|the service is terrible|i am very disappointed|nobody answers my emails"
                "|the cover is bent and dirty|the bonus was missing|the book was wet"
                "|i am angry with your shop|this is unacceptable|the quality is awful"
                "|one volume is missing from my set|it is not as described"
                "|your site is slow and annoying"
            ),
        },
    },
    "human_agent": {
        "ja": {
            "N": (
                "オペレーター|担当者|有人対応|電話での相談|問い合わせ先|電話番号|カスタマーサポート|お問い合わせ窓口|店長|責任者|人間のスタッフ|有人チャット"
                "|サポートの電話|折り返しの電話|電話の受付時間|係の人|人との会話|問い合わせフォーム"
            ),
            "V": "人と話す|オペレーターと話す|担当者に代わる|電話で相談する|スタッフに直接聞く|人間につなぐ|サポートに電話する|有人チャットに切り替える|店長を呼ぶ",
            "S": (
                "人と話したい|ボットでは分からない|電話で話したい|担当者に代わってほしい|機械ではなく人間がいい|スタッフに直接相談したい|オペレーターを出してほしい"
                "|電話をかけてほしい|AIとは話したくない|自動返信はいらない"
            ),
        },
        "en": {
            "N": (
                "a human|a real person|an agent|an operator|customer service|your phone number"
                "|live chat|a manager|a supervisor|human support|a staff member|a representative"
                "|a call back|the contact form|your support email|the support hotline"
                "|phone support hours"
            ),
            "V": (
                "talk to a human|speak to a person|talk to an agent|call customer service"
                "|contact support|chat with a real person|speak with a manager|reach your staff"
                "|get a call back|switch to live chat|speak to someone"
            ),
            "S": (
                "i want a human|i need to talk to someone|the bot does not understand me"
                "|i do not want a bot|i want to speak with an operator"
                "|i would rather talk to a person|i need a real person|i want someone to call me"
                "|i am tired of this robot"
            ),
        },
    },
    "greeting": {
        "ja": {
            "B": (
                "こんにちは|こんばんは|おはよう|おはようございます|はじめまして|やあ|どうも|ハロー|元気ですか|元気？|調子はどう|ご機嫌いかがですか|お久しぶりです"
                "|久しぶり|お世話になっております|お世話になります|もしもし|誰かいますか|よろしくお願いします|よろしくね|ごめんください|お邪魔します|やっほー"
                "|いい天気ですね|明けましておめでとうございます|また来たよ|遊びに来ました|初めて来ました|失礼します|ねえねえ"
            ),
        },
        "en": {
            "B": (
                "hello|hi|hey|good morning|good evening|good afternoon|good day|how are you"
                "|how are you doing|nice to meet you|pleased to meet you|what's up|whats up"
                "|greetings|howdy|yo|is anyone here|is anyone there|are you there|how is it going"
                "|how are things|how have you been|long time no see|happy new year"
                "|merry christmas|it is my first time here|i'm back|hello again|hiya"
                "|good to see you|can you hear me|glad to be here|how do you do"
            ),
        },
    },
    "thanks": {
        "ja": {
            "B": (
                "ありがとう|ありがとうございます|ありがとうございました|助かりました|助かった|感謝します|どうもありがとう|分かりました、ありがとう|了解、ありがとう"
                "|さようなら|バイバイ|またね|じゃあね|解決しました|もう大丈夫です|おかげで解決した|また利用します|また来ますね|以上です|質問は以上です|それだけです"
                "|サンキュー|お礼申し上げます|いいお店ですね|素敵なサービスですね|最高の対応でした|丁寧に説明してくれて感謝です|早い返事で助かりました|承知しました"
                "|お疲れさまでした|無事に届いて嬉しい|お手数をかけました"
            ),
        },
        "en": {
            "B": (
                "thanks|thank you|thank you so much|thx|ty|many thanks|i appreciate it"
                "|much appreciated|that helped|that was helpful|great, thanks|perfect, thank you"
                "|awesome|bye|goodbye|see you|see you later|good night|farewell|take care"
                "|have a nice day|problem solved|all good now|that is all|nothing else"
                "|no more questions|got it, thanks|okay, thank you|you are the best"
                "|you were very helpful|so kind of you|cheers|excellent service|lovely support"
                "|i'm grateful|i am thankful|thanks for your help|that answers my question"
                "|my books arrived safely"
            ),
        },
    },
    "out_of_scope": {
        "ja": {
            "N": (
                "今日の天気|明日の気温|東京の人口|カレーの作り方|ラーメンのレシピ|日本の首都|大統領の名前|野球の試合の結果|サッカーのスコア|株価|為替|ビットコイン"
                "|プログラムの書き方|数学の宿題|方程式|電車の時刻|新幹線の切符|飛行機の予約|ホテルの予約|選挙|政治|税金|頭痛の薬|風邪|翻訳|恋人との悩み|結婚の相談"
                "|作文|冗談|怖い話|なぞなぞ|俳句|車の修理|冷蔵庫の選び方|富士山の高さ|ピザの配達|家賃|電気の契約|犬のしつけ|猫の餌|織田信長|歴史の人物|目覚まし"
                "|エアコン|テレビ|ダイエットのコツ|筋トレの方法|宇宙の始まり|恐竜|地震|近くの病院|駐車場|求人|アルバイトの面接|今日の運勢|星座占い|ニュースの要約"
                "|会議の議事録|パソコンの直し方|スマホの故障|美容院|レストラン"
            ),
            "V": (
                "カレーを作る|英語に翻訳する|方程式を解く|作文を書く|ホテルを予約する|飛行機の切符を取る|目覚ましをかける|電気を消す|歌を歌う|痩せる|犬を飼う|車を直す"
                "|プログラムを書く|株を買う|ピザを頼む|病院を探す|占いをする|円周率を計算する"
            ),
            "S": (
                "頭が痛い|熱がある|お腹が痛い|恋人にふられた|宿題が終わらない|雨が降りそう|車が動かない|猫が病気だ|眠れない|痩せたい|パソコンが壊れた|道に迷った"
                "|仕事を辞めたい|電車が遅れている"
            ),
        },
        "en": {
            "N": (
                "the weather|the weather in tokyo|the president of france|a recipe for curry"
                "|a cake recipe|python code|math|two plus two|a translation|french"
                "|the football match|the baseball score|stock prices|bitcoin|a hotel"
                "|a flight to london|a joke|a scary story|politics|the election|a headache"
                "|a fever|medicine|my homework|my essay|mount fuji|the moon|the sun|a song|a poem"
                "|the time in new york|an alarm|a timer|the lights|the tv|losing weight|muscle"
                "|sleep|the blue sky|the nearest hospital|a bank|a cafe|my car|my fridge"
                "|my computer|pizza|sushi|flowers|napoleon|einstein|my girlfriend|my boyfriend"
                "|the capital of brazil|china|chess|video games|a movie|train times"
                "|the bus schedule|taxes|my passport|a visa|my dog|my cat|a job|part time jobs"
                "|the news|meeting notes|the meaning of life|gravity|a black hole|my rent"
                "|the electricity bill|a taxi|gold|the war"
            ),
            "V": (
                "cook curry|bake a cake|write a program|fix my code|translate this to french"
                "|book a hotel|book a flight|set an alarm|start a timer|turn on the lights"
                "|sing a song|write a poem|lose weight|sleep better|fix my car|repair my computer"
                "|order a pizza|train my dog|wash my cat|pay my taxes|renew my passport"
                "|get a visa|find a hospital|play chess|play music|summarize the news"
                "|solve this equation|do my homework|find a job|ask out my girlfriend"
            ),
            "S": (
                "i have a headache|i have a fever|my car is broken|it is raining"
                "|my computer crashed|i cannot sleep|i want to lose weight|my dog is sick"
                "|my rent is too high|i lost my passport|i am hungry|my girlfriend left me"
                "|my homework is hard"
            ),
        },
    },
}
