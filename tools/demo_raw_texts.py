"""What the raw part of the demo corpus says: the Mill Gazette, a newspaper of a town that does not exist.

All of it was written for kaiyuan. Names, addresses, numbers and keys are made up: example domains, numbers kept free
for fiction, identity cards whose check digit is right and whose holder nobody is.
"""

from __future__ import annotations

ENGLISH = {
    "The wheel turns again": """After eleven quiet years the wheel of the old mill is turning. On Tuesday morning two carpenters lifted the gate of the channel, and the first water fell on new oak boards while half the town stood along the wall.

The repair took longer than anybody had planned. The shaft was sound, but of forty paddles only nine could be kept, and the iron bands had to be forged once more from drawings that hung in the school. Children who had copied them for years now saw what the lines meant.

Flour will be ground on Saturdays. Whoever brings grain may watch it go between the stones, and pays with one tenth of the flour, as it was done before there was money in every pocket.""",
    "How a loaf gets its holes": """A slice of good bread is full of holes, and most people have never asked where they come from. The answer lives in the dough. Yeast eats sugar and gives off a gas, and the gas cannot leave because the wet flour has become elastic, like the skin of a balloon.

Kneading builds that skin. When flour is only stirred, its proteins lie about in knots; when it is folded and pressed for ten minutes, they line up and hold on to each other. Rest is as important as work, since a tired dough tears.

In the oven everything happens at once. The gas grows, the water turns to steam, the crust hardens. Open the door too early and the loaf sighs and sinks.""",
    "The ferryman's arithmetic": """Old Peter has carried people over the river since he was fourteen, and he still counts in crossings. A wedding is three crossings, a market day is twenty, a winter is none at all, for the boat lies upside down behind his house and he mends nets.

What he likes to explain is the rope. It runs from bank to bank, and the boat hangs on it by a second, shorter one. If he turns the bow a little against the stream, the water itself pushes the boat sideways. Nobody rows. The river pays for its own crossing.

The new bridge will open in spring. Asked whether he minds, he laughed. A bridge, he said, has never told anyone a story.""",
    "Bees do not sleep in winter": """When the last asters have faded, a beehive seems dead. Put your ear against the wood, however, and you will hear a low hum, as if somebody were reading aloud in another room. Inside, ten thousand bees hang in a ball as large as a melon.

They shiver to keep warm. Those at the edge work their way to the middle, those in the middle move out, and all of them take turns around the queen. Twenty pounds of honey are burnt in this way between the first frost and the willow blossom.

A beekeeper therefore has little to do until March except to leave them alone, which many find the hardest part of the trade.""",
    "A sheet of paper, by hand": """Rags, water and patience are what paper was made of for a thousand years. Linen shirts that were beyond mending went to the stamping mill, where hammers beat them until each thread had come apart into hairs too fine to see.

The vat man dips a sieve into this soup and lifts it level. With one shake to the left and one away from himself he locks the hairs together; if he hesitates, the sheet is thick on one side. Then he turns it over on a felt, and another, and another, until the pile is ready for the press.

Hold such a sheet against a window. The wires of the sieve have left their shadow in it, and with them the sign of whoever made it.""",
    "Why the clock in the tower is late": """Every July the clock of our tower loses about half a minute a week, and every January it is early. The reason is neither laziness nor rust. A pendulum of iron becomes longer when it is warm, and a long pendulum takes its time.

Clockmakers have known this since the eighteenth century. One remedy is a jar of mercury in place of the weight: as the rod grows downwards, the metal in the jar grows upwards, and the middle of the mass stays where it was. Another is wood, which hardly changes with heat but drinks the damp air.

Ours has neither. Mrs. Hale climbs the ninety steps on Mondays with a handful of pennies, and lays one on the bob, or takes one away.""",
    "The garden behind the school": """There is a garden behind the school in which nothing grows in rows. Beans climb up the maize, pumpkins cover the ground between the stalks, and under their leaves the soil is cool and dark even at noon.

The idea is far older than the school. Maize gives the beans something to hold, beans bring nitrogen into the earth, and pumpkins keep out the weeds. Each does a little work for the other two, so that a small field feeds more people than three separate ones would.

The fourth class measures all of it. Their notebook says how many cups of water were saved, how often the snails came, and which pupil forgot to close the gate on the ninth of June.""",
    "What snow does for a field": """Farmers used to say that a field under snow is a field in bed. Fresh snow is nine parts air, and air that cannot move is the best blanket there is. While the wind above it freezes a bucket in an hour, the ground below may be no colder than a cellar.

Wheat that was sown in autumn needs this cover. Its leaves can bear a hard frost for a night or two, but a whole month of it, without any snow, kills one plant in three. That happened in the winter of the great flood, when it rained until Christmas and then turned bitterly cold.

In March the blanket becomes a drink. It melts from above and sinks in slowly, which no thunderstorm has ever managed.""",
}

CHINESE = {
    "水车又转起来了": """停了十一年的水车，星期二早上又转起来了。两位木匠把水闸提起来的时候，半个镇子的人都站在石墙边上看，第一股水落在新做的橡木板上，孩子们都叫出声来。

修理的时间比原来想的长得多。轮轴还是好的，可是四十块木板里只有九块能留下，铁箍也要照着学校里挂的旧图重新打。孩子们临摹那张图好几年，现在才明白每一条线说的是什么。

以后每个星期六磨面。带粮食来的人可以站在旁边，看着麦子怎样走进两块石头中间，磨完以后留下十分之一的面粉作为工钱。在家家都有现钱以前，这里的人就是这样付账的。镇上的老人说，听见水声，才觉得日子又回来了。""",
    "豆腐是怎样做成的": """做豆腐的人起得最早。黄豆在前一天晚上就泡进水里，到了半夜已经涨大一倍，用手一捏就能分成两半。天还没有亮，石磨开始转动，白色的豆浆沿着石槽慢慢流进木桶。

豆浆要煮开，还要不停地搅，不然锅底会糊。煮好以后稍微放凉，再点卤水。这一步最难：卤水放得急了，豆腐又老又硬；放得慢了，又不能成形。师傅不用秤，只看勺子边上的花纹。

最后把豆花舀进铺着布的木框，上面压一块石头。一个时辰以后打开布，一整板豆腐就做好了，用手轻轻一拍，它会微微颤动。卖不完的豆腐切成小块，晒干，或者放进坛子里，过一个冬天又是另一种味道。""",
    "渡口的老船夫": """老赵十四岁就在渡口撑船，到现在已经五十多年。他算日子不看日历，只数来回：办一次喜事是三个来回，赶一次集是二十个来回，冬天一个也没有，船翻过来扣在屋后，他就坐在门口补网。

他最喜欢给人讲那根绳子。粗绳从这边的岸拉到那边的岸，船用一根短绳挂在上面。只要把船头稍微偏向上游，水自己就会把船推过去，谁也不用划桨。他说，这条河自己替自己付了船钱。

新桥明年春天就要通车。有人问他心里难不难过，他笑了笑，说桥又不会讲故事。说完他把竹篙往水里一点，船就慢慢离了岸，船尾留下一道弯弯的水纹。""",
    "蜜蜂冬天不睡觉": """菊花谢了以后，蜂箱看上去好像空了。可是把耳朵贴在木板上，就能听见低低的声音，好像隔壁屋里有人在念书。一万多只蜜蜂抱成一团，有西瓜那么大，蜂王就在正中间。

它们靠发抖来取暖。外面的蜜蜂慢慢挤到里面去，里面的蜜蜂再换到外面来，谁也不会一直受冻。从第一次下霜到柳树开花，一箱蜜蜂要吃掉二十斤蜂蜜，才能把这一团火保住。

所以养蜂的人在三月以前几乎没有事做，只要不去打扰它们就好。老师傅说，做事情不难，忍住不做才难。等到天气暖和，第一批蜜蜂飞出来转一圈，又急急忙忙飞回去，他才算放了心。""",
    "一张纸的来历": """在机器出现以前，一张纸要经过几十双手。先把树皮泡在水里，泡软了再和石灰一起蒸，蒸完用河水冲洗，洗到没有一点黄色。然后放进石臼里捣，捣成细细的纸浆，倒进木槽，用棍子搅匀。

抄纸的师傅双手端着竹帘，斜着插进水里，再平平地提起来。水从竹丝中间漏下去，纸浆就留在帘子上，成了薄薄的一层。手稍微抖一下，这张纸就厚薄不匀，只能重新来过。

湿纸一张一张叠起来，压去水分，再用刷子贴到热墙上烘干。对着窗户看一张手工纸，能看见竹帘留下的细纹，一道一道，像雨天的水面。一个好师傅一天能抄七八百张，可是要学会这一提一放，少说也要三年。""",
    "看云知道天气": """镇上的老人不听广播，抬头看一看天，就知道明天要不要收谷子。天上的云像鱼鳞一样排着，他们说不用翻晒；云脚低低地压在山腰，他们就把屋檐下的木桶挪到外面来接水。

这些话里有道理。高空的云是冰做的，又薄又白，离下雨还早；云层一点一点变低变厚，说明湿的空气正在往上爬，雨也就不远了。早上的霞光特别红，是因为西边的水汽已经来到头顶。

不过老人们也有看错的时候。去年秋天，大家都说不会下雨，结果夜里一场雷阵雨，把晒在场上的稻子全打湿了。从那以后，气象站的小李每天在村口的黑板上写一行字，老人们看完天，也会走过去看一眼黑板。""",
    "学校后面的菜园": """学校后面有一块菜园，里面的菜从来不排队。豆角爬在玉米秆上，南瓜的叶子盖住了地面，叶子底下的土，就是中午也又凉又湿。第一次来的人都说乱，仔细看才明白每一棵都站在自己的位置上。

这个办法比学校老得多。玉米给豆角当架子，豆角给土里添养分，南瓜把杂草挡在外面。三样东西互相帮忙，一小块地收的粮食，比分开种的三块地还要多，浇的水却只要一半。

四年级的学生负责记录。本子上写着省了多少杯水，蜗牛来过几回，还有六月九日那天是谁忘了关门，让邻居家的羊进来吃掉了半垄白菜。老师说，记下来的错误，也是收成的一部分。""",
    "一条路要走多少年": """从镇上到车站只有十二里，可是这条路修了三次。第一次是用石头铺的，每块石头都从山上背下来，背一块记一个工分。石头路结实，就是太颠，拉鸡蛋的车到了车站，筐里总要碎几个。

第二次铺的是煤渣。晴天走在上面沙沙地响，下雨也不沾鞋，只是风一吹满脸都是灰。孩子们放学回来，鼻子下面总有两道黑印，母亲一看就知道他们没有走田埂。

第三次修路来了机器，一个夏天就铺好了水泥。通车那天，修第一条路的老人也来了，他蹲下去摸了摸路面，说平倒是真平。他问施工的人，原来那些石头去了哪里。人家告诉他，都垫在下面了，他这才点了点头。""",
}

TRADITIONAL = """鎮上的圖書館每逢週末都會舉辦讀書會。今年的第一本書講的是一個製鐘錶的師傅，他花了三十年時間，做出一座不用上發條的鐘。書裡沒有什麼大事，只有齒輪、油燈和來修錶的鄰居。

參加的人從十幾歲的學生到八十歲的老人都有。大家圍著一張長桌坐下，每個人先讀一段自己最喜歡的話，再說說為什麼喜歡。有人喜歡描寫雪夜的那一頁，有人只喜歡最後一句。

館長說，讀書會不設題目，也不記筆記。書讀完以後放回架上，下一個借書的人會在書頁裡找到前面的人留下的紙條。上個月有人在紙條上寫：這座鐘後來停了嗎？到現在還沒有人回答。"""

GERMAN = """Das alte Mühlrad dreht sich wieder, und die halbe Stadt stand am Dienstag an der Mauer, um es zu sehen. Zwei
Zimmerleute hoben das Wehr, und das erste Wasser fiel auf die neuen Bretter aus Eichenholz. Die Reparatur hatte viel
länger gedauert, als alle geglaubt hatten, denn von vierzig Schaufeln konnten nur neun bleiben. Am Samstag wird nun
wieder Mehl gemahlen, und wer Korn bringt, darf dabei zusehen."""

LETTERS = (
    ("en", """To the editor. Your report on the bridge was a pleasure to read, but the date is wrong: the first stone was laid in the year of the flood, not in the year after. My grandfather kept the receipt for the mortar, and it hangs framed over our stove. If your readers wish to see it, they may write to {email} or call {phone} after supper. I should also like to thank the two young men who carried my groceries home when the road was frozen. They did not leave their names, so I have to do it in this way."""),
    ("en", """A question for whoever runs the weather page. The thermometer on the town hall shows four degrees more than mine, and mine hangs in the shade. I have written down both for a month and sent the table to {email}, without an answer so far. Would it be possible to move yours away from the bakery's chimney? I know that the log is open, for I found it at http://{ip}/log, but nobody seems to look into it. With kind regards from the hill, where it is really cold."""),
    ("en", """Lost on market day between the fountain and the church: a brown leather purse with some coins, a bank card and my library ticket. The card is blocked already (it was {card}), the coins may be kept, but the ticket has a drawing by my daughter on its back, and I would give a cake for it. I live above the clockmaker's and am at home in the evenings. Whoever has found it can also ring me up under {phone}; please let it ring for a while. The stairs are steep."""),
    ("zh", """编辑同志：贵报上星期关于水车的报道写得很好，我们全家都看了。不过有一处要更正，水闸不是两个人提起来的，还有我弟弟在后面拉绳子。他不好意思写信，我替他说一句。另外，读书会的报名表上印错了电话，应该是{phone}，也可以写信到{email}，来信请写清楚姓名和想读的书。还想请贵报多登一些这样的事：谁家修了桥，谁家添了井，谁在雪天里替大家扫过路。这些事不大，可是过了几十年以后，孩子们想知道镇上的人从前怎样过日子，就只能从这些短短的文章里去找。祝编辑部各位身体健康，也祝镇上的水车一直转下去。"""),
    ("zh", """昨天下午我在渡口捡到一个布包，里面有一张身份证，号码是{id}，还有几十块钱和一本写了一半的笔记本。我在那里等到天黑，没有人来找，就先带回家了。请失主看到以后跟我联系，我的手机是{phone}，白天晚上都可以打。笔记本我没有翻看，只看见封面上画着一只小船。钱一分没有动，包还是原来的样子，请放心来取。我家在磨坊后面第三个门，门口有一棵歪脖子枣树，很好认。如果我不在，可以把话留给隔壁修鞋的师傅，他从早到晚都坐在窗边。下次过河的时候请把东西放在胸前，船一晃，最容易掉的就是这样的小包。"""),
    ("zh", """有几位读者来信问怎样进气象站的网页，我在这里统一回答。地址是http://{ip}/，用户名就是大家的名字拼音，初始密码是{secret}，登录以后请马上改掉。网页上每个小时更新一次温度和风向，雨量每天早上八点更新。如果数字一整天都没有变，多半是仪器又被鸟窝挡住了，请发邮件到{email}告诉我，我会上去看一看。有人问为什么雨量要等到八点，这是因为全国的站都在同一个时候读数，早一刻晚一刻都不能相比。还有小朋友问能不能来参观，当然可以，星期日上午我都在，来的时候请穿球鞋，梯子有三十多级。"""),
)  # fmt: skip

DATA = {
    "en": {"email": ("hilda.stone@example.com", "weather (at) gazette.example.org", "purse-finder@example.net"),
           "phone": ("(202) 555-0143", "+1 202-555-0187", "202-555-0119"), "ip": ("8.8.4.4",),
           "card": ("4111 1111 1111 1111",)},
    "zh": {"email": ("duhui@example.cn", "xiaoli@example.com"), "phone": ("13800138000", "139 1234 5678"),
           "id": ("11010519491231002X",), "ip": ("9.9.9.9",), "secret": ("tQ7#mZ2vLp9x",)},
}  # fmt: skip

NOTES = {
    "oiling-tools.md": ("en", "Oiling tools", """A plane, a chisel or a saw that is put away dry will be brown with rust by the spring. Wipe the steel with a rag, then with another one on which there are three drops of oil, and hang it where air can pass on both sides.

Handles want something else. Linseed oil soaks into ash and beech and hardens there, so give them a coat when they look grey, wait for a day, and rub off whatever has stayed on the surface. Crumpled rags with linseed oil may catch fire by themselves; spread them out on a stone until they are stiff.

A drawer full of sharp tools is a drawer full of damage. Each edge should have a sleeve, if only of folded card."""),
    "measuring-rain.md": ("en", "Measuring rain", """Any straight glass can measure rain. Set it on open ground, as far from a wall as the wall is high, and read it at the same hour every morning. One millimetre in the glass is one litre on every square metre of the field, however wide the glass may be.

Wind is the enemy. It blows drops over the rim, so that a glass on a roof always reads less than one near the grass. Snow has to be melted first, and about ten parts of it make one part of water.

After a year the sum will be close to that of the nearest station, and after ten years the mean will be worth more than any almanac."""),
    "腌菜.md": ("zh", "腌菜", """腌菜要选晴天。白菜洗净以后不要马上下缸，先挂在绳子上吹一天风，叶子软了，水分也少了一半，腌出来才脆。盐要炒过，一层菜一层盐，每铺三层就用拳头压一压，把空气挤出来。

最上面压一块青石，石头要用开水烫过。两天以后水会漫过菜面，如果没有漫过，就再加一点凉开水。缸要放在阴凉的地方，盖子不能盖得太紧，让气可以出来。

一个月以内不要吃，这时候味道还没有变好。打开缸的时候如果闻到清香，颜色是金黄的，就成了；如果水面上有白色的膜，把它撇掉，再撒一把盐。取菜的筷子一定要干净，不能沾油。"""),
    "磨刀.md": ("zh", "磨刀", """磨刀先看石头。粗石用来开口，细石用来收口，两块石头都要先在水里泡一刻钟，泡到不再冒气泡为止。石头下面垫一块湿布，磨的时候才不会滑动。

刀和石面的角度大约是两枚铜钱的高度。往前推的时候用力，往回拉的时候放松，从刀根到刀尖都要照顾到。磨了几十下以后，用指甲轻轻碰一碰刀口，能觉出一道细细的毛边，这一面就算好了，再翻过来磨另一面。

最后在细石上轻轻带几下，把毛边去掉，用清水冲干净，擦干。试刀不要用头发，切一张薄纸就知道：声音短而清，说明刀口是平的；纸被撕开，说明还有缺口，要从头再来。"""),
}  # fmt: skip

BOOK = {
    "The lamp on the weir": """There was once a lamp on the weir, and nobody remembered who had hung it there. It was an ordinary lamp with a tin roof, and it burnt every night from the first stroke of eight until the baker went to his oven. When the oil was used up it was full again in the morning.

The miller's daughter wanted to know how that could be. She sat down behind the willow with a blanket and a piece of cheese, and watched until her eyes fell shut. In the morning the lamp was full, and half of the cheese was gone.

On the second evening she brought two pieces of cheese and laid one of them on the wall.""",
    "The second evening": """This time she did not sleep. When the bell had struck eleven, somebody came along the weir with very short steps, and it was a heron. He looked at the cheese with one eye and at the girl with the other.

"You are in my place," said the heron.

"I only wish to know who fills the lamp," said the girl. "I shall tell no one, if it is a secret."

"It is not a secret," said the heron, "for nobody has ever asked. I fill it. The fish come to the light, and I have poor eyes." He took the cheese and was ashamed of it a little, since it was not fish.""",
    "What became of it": """From then on the girl brought the oil, because a heron has no easy way to come by oil, and the heron left her a fish on the wall on Fridays. They never spoke of it again. There are agreements that become smaller when one talks about them.

When she was grown and had a mill of her own, and the heron was long gone, the lamp still burnt. Travellers found their way by it, and in the great flood it was the only light that could be seen from the other bank.

It hangs there to this day. If you walk past in the evening you may notice that it is full, and that somebody has put a small piece of cheese on the wall beside it.""",
}

SPAM = {
    "en": "BEST PRICES!!! Buy cheap watches now >>> http://shop.example/a http://shop.example/b http://shop.example/c Click "
    "here *** Buy cheap watches now *** Buy cheap watches now *** Buy cheap watches now *** Click here $$$ 70% off $$$",
    "zh": "限时抢购！！！点击领取！！！限时抢购！！！点击领取！！！加微信领取！！！限时抢购！！！点击领取！！！扫码关注！！！"
    "限时抢购！！！点击领取！！！加微信领取！！！限时抢购！！！点击领取！！！扫码关注！！！限时抢购！！！点击领取！！！",
}  # fmt: skip

QUIZ = {
    "en": "The quiz night at the inn was won by the table of the fire brigade. Their luck was the fourth question: What is "
    "the capital of France? All the other tables had written down the name of a river. The landlord asks everybody to bring "
    "their own pencils next time, and to leave the encyclopaedia at home. The prize, a ham, was eaten on the spot.",
    "zh": "小镇的猜谜晚会上个星期六举行，来了六十多个人。第四道题难住了大家：法国的首都是哪里？只有消防队那一桌答对了，"
    "他们因此赢得了一只火腿，当场就分着吃完了。主持人说，下一次请大家自己带铅笔，也请不要再把词典藏在桌子底下。第五道题是一个字谜，谜面只有四个字，猜了半个钟头也没有人猜出来，最后还是厨房里洗碗的老太太隔着门喊出了答案，全场都笑了。散会的时候外面下着小雨，消防队的人把伞借给了住得远的几家，自己淋着雨走回去。下一次晚会定在月底，题目由学校的老师来出。",
}  # fmt: skip
