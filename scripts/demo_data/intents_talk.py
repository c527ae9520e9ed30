"""Sentence families of small talk and of what the shop does not do (notation: see `grammar.py`)."""

FAMILIES: dict[str, dict[str, str]] = {
    "greeting": {
        "ja": """
(こんにちは|こんにちわ|こんちは)(！|。|)
(おはよう|おはよ)<ー/ございます/ございます。お世話になっております>
(こんばんは|こんばんわ)(！|。|)
(はじめまして|初めまして)(！|。|、よろしく)
(やあ|やっほー|どうも|ハロー)(！|。|)
(お世話になっております|お世話になります)(。|)
(ごめんください|失礼します|失礼いたします)(。|)
(もしもし|おーい)、(誰かいますか|聞こえますか|いますか)？
(今日もよろしく|よろしく)<ね/お願いします/お願いいたします>
(元気|調子はどう|ご機嫌いかが)(？|ですか？|ですか)
(久しぶり|お久しぶり|ご無沙汰)<！/です/しております>
(また来た|遊びに来た)<よ/ました/次第です>(！|。|)
(ねえねえ|ねえ|あのー)(、こんにちは|、やあ|、はじめまして)
(はい、|ええと、|)(こんにちは|こんばんは|おはようございます)、(初めて来ました|はじめまして|元気ですか)
(いらっしゃい|お邪魔します|お邪魔いたします)(！|。|)
(ハロー|ハーイ|どうもどうも)、(元気|調子どう)？
(皆さん|店員さん|ボットさん)、(こんにちは|おはようございます|こんばんは)
(あけまして|明けまして)おめでとう<！/ございます/ございます。本年もよろしくお願いいたします>
<よっ/どうもこんにちは/いつもお世話になっております>(！|。|)
今日は(いい天気|寒い|暑い)<ね/ですね/でございますね>、(こんにちは|おはようございます)
""",
        "en": """
(hello|hi|hey)( there|)(!|)
good (morning|afternoon|evening|day)(!|)
(hey|hi) (bot|koma|team|shop)(!|)
(hi|hello), how are you( today| doing|)?
(nice|pleased|glad) to meet you(!|)
(what's|whats) up(?|)
(greetings|howdy|yo)(!|)
(is|) anyone (there|here)?
(hello|hi) (again|once more)(!|)
(how's it going|how is it going|how are things)?
(dear|hello dear) (shop|team|staff|sir or madam)
(long time no see|i'm back|me again)(!|)
(hiya|heya|hey hey|hi hi|hellooo)(!|)
(good to see you|happy to be here)( again|)(!|)
(hello|hi), (it is|it's) my first (time|visit) here
(morning|evening|afternoon)( everyone| all| team|)(!|)
(happy new year|merry christmas)( to you| everyone|)(!|)
(hello|hi), (can you hear me|are you there|is someone there)?
(how do you do|how have you been|how are you)( today|)?
(welcome|hello) (from me|to you)(!|)
""",
    },
    "thanks": {
        "ja": """
ありがとう<！/ございます/ございました>
(助かった|助かりました|とても助かりました)(！|。|)
(どうも|本当に|誠に)ありがとう<ね/ございます/ございました>
(分かった|わかりました|承知しました|了解)(、ありがとう|。ありがとうございます|、どうも)
(じゃあね|バイバイ|またね|さようなら)(！|。|)
(感謝|感謝します|感謝しております|お礼申し上げます)(。|)
(もう大丈夫|解決した|問題が解決しました)(、ありがとう|。助かりました|ので大丈夫です)
(おかげで|おかげさまで)(解決した|うまくいった|分かりました)(！|。|)
また(来る|買いに来る|利用する)<ね/ます/つもりでおります>(、ありがとう|。感謝します|)
(親切|丁寧)に(教えて|対応して|説明して)<くれてありがとう/くださりありがとうございます/いただき感謝いたします>
(失礼します|失礼いたします)。(ありがとうございました|助かりました|それでは)
(サンキュー|あざっす|センキュー|ありがと)(！|。|)
(いい|素敵な|最高の)(お店|サービス|対応)<だね/ですね/でございますね>(、ありがとう|。ありがとうございます)
(以上|それだけ|質問は以上)<だよ/です/でございます>(。ありがとう|、助かりました|。ありがとうございました)
(すごい|さすが|完璧)(！|、)(ありがとう|助かった|感謝)
お(手数|時間|手間)を(かけて|取らせて)すみません(、ありがとう|。ありがとうございました|でした。感謝します)
(うん|はい)、(それで大丈夫|もう分かりました|助かる)(。ありがとう|、ありがとね|。どうも)
(お疲れさま|お疲れ様)<ー/です/でございました>(。またね|。さようなら|、ありがとう)
早い(返事|対応|回答)(ありがとう|に感謝します|で助かりました)
(漫画|本)が(無事に|ちゃんと)届いて(嬉しい|喜んでます)(、ありがとう|。感謝します)
""",
        "en": """
(thanks|thank you|thx|ty)( so much| very much| a lot|)(!|)
(that|this) (helped|was helpful|helps a lot)( thanks|)(!|)
(great|perfect|awesome|cool), (thanks|thank you)(!|)
(bye|goodbye|see you|see ya)( later|)(!|)
(i appreciate|much appreciated|i really appreciate) (it|your help|that)
(ok|okay|got it|i see), (thank you|thanks|that helps)
(problem solved|all good|it works) now(, thank you|, thanks|)
you('ve| have) been (very |so |)(helpful|kind)
(have|you have) a (nice|good|great) (day|evening|weekend)
(that's all|that is all|nothing else)( thank you| for now| thanks)
(many|a thousand|big) thanks( for your help| for the answer|)
(cheers|thanks mate|thank you friend)(!|)
(no more questions|i have everything i need), (bye|thanks|thank you)
(wonderful|excellent|lovely) (service|help|support)(, thank you|, thanks|)
(thanks|thank you) for (the quick reply|your time|helping me|everything)
(i'm|i am) (so |very |)(grateful|thankful)( for your help| for this|)
(good night|farewell|until next time|take care)(!|)
(you are|you're) the best(, thanks|!|)
my (books|manga) (arrived safely|came fine), (thank you|thanks|much appreciated)
(that answers|you answered) my question( perfectly|)(, thanks|, thank you|)
""",
    },
    "out_of_scope": {
        "ja": """
(今日|明日|週末)の(天気|気温|降水確率)は<どう？/どうですか？/いかがでしょうか？>
(東京|大阪|福岡|パリ)の(人口|面積|天気)を<教えて/教えてください/お教えいただけますか>
(カレー|ラーメン|ケーキ|味噌汁)の(作り方|レシピ)を<教えて/教えてください/お教えいただけますか>
(日本|アメリカ|フランス)の(首都|大統領|総理大臣|国歌)は<誰？/何ですか？/どなたでしょうか？>
(昨日|今日)の(野球|サッカー|相撲)の(結果|試合|スコア)は<？/どうなりましたか？/いかがでしたでしょうか？>
(株価|為替|ドル円|ビットコイン)は(今|今日)(いくら|上がる|どうなる)<？/ですか？/でしょうか？>
(パイソン|プログラム|コード)を(書いて|直して|説明して)<よ/ください/いただけますか>
(円周率|方程式|足し算|掛け算)を(計算して|解いて|教えて)<よ/ください/いただけますか>
(東京|京都|大阪)(から|まで)の(電車|新幹線|飛行機)の(時刻|乗り換え|切符)を<調べて/調べてください/お調べいただけますか>
(ホテル|レストラン|飛行機|美容院)を(予約して|探して)<よ/ください/いただけますか>
(選挙|政治|戦争|税金)について(どう思う|意見を聞かせて|教えて)<？/ください/いただけますか>
(頭が痛い|熱がある|お腹が痛い|風邪をひいた)<んだけど、薬は？/のですが、どの薬を飲めばいいですか/のですが、病院はどこでしょうか>
(英語|中国語|フランス語)に(翻訳|訳)して<よ/ください/いただけますか>
(結婚|恋人|仕事|人生)の(悩み|相談)を聞いて<よ/ください/いただけますか>
(宿題|作文|レポート|論文)を(手伝って|書いて|代わりにやって)<よ/ください/いただけますか>
(冗談|なぞなぞ|怖い話|昔話)を(言って|話して|一つ)<よ/ください/お願いいたします>
(歌|詩|俳句|ラップ)を(作って|歌って|書いて)<よ/ください/いただけますか>
(車|冷蔵庫|パソコン|スマホ)の(修理|直し方|選び方)<教えて/を教えてください/をお教えいただけますか>
(富士山|エベレスト|東京タワー|月)の(高さ|距離|大きさ)は<？/どのくらいですか？/どれほどでしょうか？>
(ピザ|寿司|花|牛乳)を(注文|配達)<して/してください/していただけますか>
(部屋|家|アパート)の(家賃|電気|水道)の(相談|契約|手続き)<したい/をしたいです/をお願いいたします>
(猫|犬|金魚)の(飼い方|餌|病気|しつけ)について<知りたい/知りたいです/伺いたいのですが>
(織田信長|徳川家康|ナポレオン)は(いつ|どこで)(生まれた|死んだ)<？/のですか？/のでしょうか？>
(今|ニューヨークは今)何時<？/ですか？/でしょうか？>
(明日|朝七時)に(アラーム|目覚まし|タイマー)を(かけて|セットして)<よ/ください/いただけますか>
(電気|エアコン|テレビ|音楽)を(つけて|消して|かけて)<よ/ください/いただけますか>
(ダイエット|筋トレ|早起き)の(コツ|やり方|方法)は<？/ありますか？/ございますでしょうか？>
(宇宙|恐竜|地震|虹)は(なぜ|どうして)(できる|生まれた|起きる)<の？/のですか？/のでしょうか？>
(近く|駅前)の(駐車場|病院|銀行|カフェ)は<どこ？/どこですか？/どちらでしょうか？>
(求人|バイト|アルバイト|面接)の(応募|申し込み)を<したい/したいです/させていただきたいのですが>
(占い|今日の運勢|星座占い)<やって/をしてください/をお願いいたします>
(ニュース|新聞の記事|会議の議事録)を(要約|まとめて)<して/してください/していただけますか>
""",
        "en": """
(what|how) is the weather( like|) (today|tomorrow|in tokyo|in paris)?
who (is|was) the (president|king|prime minister) of (france|japan|america)?
(how do i|can you) (cook|bake|make) (curry|a cake|ramen|bread)?
(write|fix|explain) (a python|some|this java) (program|code|function)( for me|)
what is (two plus two|the square root of nine|ten times twelve|pi)?
(translate|how do you say) (this|hello|good morning) (to|in) (french|german|chinese)
who won the (football|baseball|tennis) (game|match)( yesterday| last night|)?
(stock|bitcoin|gold) price (today|now)
(book|reserve) (a hotel|a flight|a table|a taxi) (for me|for tonight|to london)
(tell|give) me a (joke|riddle|scary story|fun fact)
what (do you think|is your opinion) (about|on) (politics|the election|the war|god)?
i have a (headache|fever|cold), what (medicine|pills) should i take?
(help|can you help) me with my (homework|essay|math|thesis)
how (tall|high|far|big) is (mount fuji|the moon|the eiffel tower|the sun)?
(sing|write) (me |)(a song|a poem|a rap)
what time is it( in new york| in london|)?
(set|start) (an alarm|a timer) (for seven|for ten minutes)
(turn|switch) (on|off) the (lights|tv|heating)
how (do|can) i (lose weight|sleep better|build muscle)?
why is the sky blue?
(where|what) is the nearest (hospital|bank|gas station|cafe)?
(fix|repair) my (car|fridge|computer|phone)
(order|deliver) (me |)(a pizza|sushi|flowers|some milk)
when (was|did) (napoleon|einstein|mozart) (born|die)?
(should|how can) i (marry|ask out|break up with) my (girlfriend|boyfriend)?
what is the (capital|population|flag) of (brazil|spain|china)?
(do you|can you) (like|play) (football|music|chess|games) (with me|too|)?
(train|bus|flight) (times|schedule) (from|to) (osaka|london|berlin)
(how|where) do i (pay my taxes|renew my passport|get a visa)?
(how do i|tips to) (train|feed|wash) my (dog|cat|goldfish)
(are there|do you have any) (jobs|job openings|part time jobs)( in the city| for students|)?
(summarize|read) (the news|this article|my meeting notes)( for me|)
what is (the meaning of life|gravity|photosynthesis|a black hole)?
(my|the) (rent|electricity|water) bill is too high, (what can i do|help)
(play|recommend) (some|a) (music|movie|video game|tv show)
""",
    },
}
