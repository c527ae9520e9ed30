"""Manga titles: our own inventions (Japanese, English), public-domain classics, and word lists
from which more titles are composed. No title of a living work is used on purpose."""

TITLES: list[tuple[str, str]] = [
    ("月影の配達人", "Moonshadow Courier"), ("硝子の王国", "The Glass Kingdom"),
    ("星屑食堂", "Stardust Diner"), ("真夜中の図書室", "The Midnight Reading Room"),
    ("鉄塔の魔女", "Witch of the Iron Tower"), ("雨音クラブ", "Rainsound Club"),
    ("猫町三丁目", "Cat Town Third Street"), ("風待ち灯台", "Lighthouse Waiting for Wind"),
    ("放課後ゴーレム", "After School Golem"), ("紙ひこうき戦線", "Paper Plane Front"),
    ("蒼天のパン屋", "Blue Sky Bakery"), ("夜行列車モモ", "Momo the Night Train"),
    ("折り紙騎士団", "The Origami Knights"), ("さよなら銀河", "Goodbye Galaxy"),
    ("狐の嫁入り日記", "Diary of a Fox Bride"), ("第七倉庫の幽霊", "Ghost of Warehouse Seven"),
    ("まほろば道場", "Mahoroba Dojo"), ("電脳金魚", "Cyber Goldfish"),
    ("冬眠探偵", "The Hibernating Detective"), ("ソーダ水の惑星", "Soda Water Planet"),
    ("かみなり先生", "Professor Thunder"), ("砂時計の姉妹", "Sisters of the Hourglass"),
    ("竜とおにぎり", "Dragon and Rice Ball"), ("海底郵便局", "Undersea Post Office"),
    ("桜坂オーケストラ", "Cherry Hill Orchestra"), ("影踏みシンデレラ", "Shadow Tag Cinderella"),
    ("百年目の朝", "The Hundredth Year Morning"), ("白い犬と機関士", "White Dog and Engineer"),
    ("ゼロ番線の剣士", "Swordsman of Platform Zero"), ("わたしの隣の妖怪", "The Spirit Next Door"),
    ("氷の庭のアリス", "Alice in the Frozen Garden"), ("虹色ランドセル", "Rainbow Schoolbag"),
    ("終電後のヒーロー", "Hero After the Last Train"), ("木曜日の吸血鬼", "Vampire on Thursday"),
    ("銀色キッチン", "Silver Kitchen"), ("天文台の少年", "Boy of the Observatory"),
    ("花火職人リコ", "Riko the Firework Maker"), ("迷子のロボット", "The Lost Robot"),
    ("北の国の地図帳", "Atlas of the North"), ("みどりの指の姫", "Princess Green Thumb"),
    ("源氏物語", "The Tale of Genji"), ("竹取物語", "The Bamboo Cutter"),
    ("西遊記", "Journey to the West"), ("吾輩は猫である", "I Am a Cat"),
    ("不思議の国のアリス", "Alice in Wonderland"), ("宝島", "Treasure Island"),
    ("銀河鉄道の夜", "Night on the Galactic Railroad"), ("三銃士", "The Three Musketeers"),
    ("平家物語", "The Tale of the Heike"), ("海底二万里", "Twenty Thousand Leagues"),
]

MODIFIERS: list[tuple[str, str]] = [
    ("黄昏", "Twilight"), ("水晶", "Crystal"), ("嵐", "Storm"), ("黒猫", "Black Cat"),
    ("白銀", "Silver"), ("真紅", "Crimson"), ("忘れられた", "Forgotten"), ("眠れる", "Sleeping"),
    ("最後", "Last"), ("地下", "Underground"), ("空飛ぶ", "Flying"), ("逆さま", "Upside Down"),
    ("隣町", "Next Town"), ("金曜日", "Friday"), ("霧", "Misty"), ("東の森", "East Forest"),
    ("ひまわり", "Sunflower"), ("サイダー", "Cider"), ("オレンジ", "Orange"), ("歌う", "Singing"),
    ("静かな", "Quiet"), ("七色", "Seven Colour"), ("古本屋", "Old Bookshop"), ("雪国", "Snowland"),
    ("錆びた", "Rusty"), ("透明", "Invisible"), ("迷宮", "Maze"), ("流星", "Meteor"),
    ("深海", "Deep Sea"), ("あべこべ", "Mixed Up"), ("千年", "Thousand Year"), ("はぐれ", "Stray"),
]

HEADS: list[tuple[str, str]] = [
    ("約束", "Promise"), ("剣", "Blade"), ("時計塔", "Clock Tower"), ("旅人", "Traveller"),
    ("学園", "Academy"), ("喫茶店", "Cafe"), ("料理人", "Chef"), ("姫君", "Princess"),
    ("騎士", "Knight"), ("探偵", "Detective"), ("交響曲", "Symphony"), ("手紙", "Letter"),
    ("航海", "Voyage"), ("方程式", "Equation"), ("門番", "Gatekeeper"), ("庭", "Garden"),
    ("ドラゴン", "Dragon"), ("カメラ", "Camera"), ("ピアノ", "Piano"), ("バス", "Bus"),
    ("仮面", "Mask"), ("怪盗", "Phantom Thief"), ("天使", "Angel"), ("秘密", "Secret"),
    ("相棒", "Partner"), ("戦記", "Chronicle"), ("夏休み", "Summer"), ("くじら", "Whale"),
    ("巫女", "Shrine Maiden"), ("忍者", "Ninja"), ("商店街", "Arcade"), ("王子", "Prince"),
]
