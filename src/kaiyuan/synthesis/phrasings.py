"""How problems are put into words: questions and statements for every operation, in English and Chinese.

Braces name the fields that ``kaiyuan.synthesis.kinds`` fills in; ``{answer}`` stands in statements only. Every question
asks for one short value.
"""

from __future__ import annotations

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "add": {
        "en": (
            "What is {a} + {b}?",
            "Calculate {a} + {b}.",
            "{a} + {b} = ?",
            "What is {a} plus {b}?",
            "What is the sum of {a} and {b}?",
            "A box holds {a} apples. {b} more are put in. How many apples are in the box now?",
        ),
        "zh": (
            "{a} + {b} 等于多少？",
            "计算 {a} + {b}。",
            "{a} + {b} = ?",
            "{a}加{b}是多少？",
            "{a}与{b}的和是多少？",
            "盒子里有{a}个苹果，又放进{b}个，现在盒子里有几个苹果？",
        ),
    },
    "subtract": {
        "en": (
            "What is {a} - {b}?",
            "Calculate {a} - {b}.",
            "{a} - {b} = ?",
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "A box holds {a} apples. {b} are taken out. How many apples are left in the box?",
        ),
        "zh": (
            "{a} - {b} 等于多少？",
            "计算 {a} - {b}。",
            "{a} - {b} = ?",
            "{a}减{b}是多少？",
            "从{a}中减去{b}，还剩多少？",
            "盒子里有{a}个苹果，拿走{b}个，还剩几个苹果？",
        ),
    },
    "multiply": {
        "en": ("What is {a} × {b}?", "Calculate {a} × {b}.", "{a} × {b} = ?", "What is {a} multiplied by {b}?"),
        "zh": ("{a} × {b} 等于多少？", "计算 {a} × {b}。", "{a} × {b} = ?", "{a}乘以{b}是多少？"),
    },
    "compare": {
        "en": (
            "Which number is the {word}: {either}?",
            "Which of {both} is the {word}?",
            "Name the {word} of these numbers: {list}.",
            "Of the numbers {both}, which one is the {word}?",
        ),
        "zh": (
            "{both}，哪个数{word}？",
            "在{both}中，{word}的数是哪个？",
            "比一比：{list}，哪个{word}？",
            "写出{word}的数：{list}。",
        ),
    },
    "sort": {
        "en": (
            "Sort these numbers from smallest to largest: {list}.",
            "Put {both} in ascending order.",
            "Write these numbers in increasing order: {list}.",
        ),
        "zh": ("把{list}从小到大排列。", "将这些数按从小到大的顺序排列：{list}。", "从小到大排序：{list}。"),
    },
    "next": {
        "en": ("What number comes after {a}?", "Which number follows {a}?", "Counting up, what comes after {a}?"),
        "zh": ("{a}后面的数是多少？", "数数时，{a}的下一个数是几？", "{a}之后的整数是多少？"),
    },
    "previous": {
        "en": (
            "What number comes before {a}?",
            "Which number precedes {a}?",
            "Counting up, what comes before {a}?",
        ),
        "zh": ("{a}前面的数是多少？", "数数时，{a}的上一个数是几？", "{a}之前的整数是多少？"),
    },
    "parity": {
        "en": ("Is {a} even or odd?", "Is the number {a} odd or even?", "Say whether {a} is even or odd."),
        "zh": ("{a}是奇数还是偶数？", "判断{a}是偶数还是奇数。", "数字{a}是偶数还是奇数？"),
    },
    "count": {
        "en": (
            "How many times is {a} written here: {list}?",
            "Count the words: {list}.",
            "How many words are there: {list}?",
        ),
        "zh": ("这里写了几个“{a}”：{list}？", "数一数有几个词：{list}。", "“{a}”出现了几次：{list}？"),
    },
    "reverse": {
        "en": ("Reverse the letters: {list}.", "Write the letters backwards: {list}.", "Spell this backwards: {list}."),
        "zh": ("把这些字倒过来写：{list}。", "倒序写出：{list}。", "将下面的字反过来：{list}。"),
    },
    "first": {
        "en": ("What is the first letter of {list}?", "Which letter comes first: {list}?", "The first letter: {list}."),
        "zh": ("{list}，第一个字是什么？", "下面第一个字是什么：{list}？", "写出第一个字：{list}。"),
    },
    "last": {
        "en": ("What is the last letter of {list}?", "Which letter comes last: {list}?", "The last letter: {list}."),
        "zh": ("{list}，最后一个字是什么？", "下面最后一个字是什么：{list}？", "写出最后一个字：{list}。"),
    },
    "day after": {
        "en": (
            "What day comes after {a}?",
            "Which day follows {a}?",
            "If today is {a}, what day is tomorrow?",
            "Name the day after {a}.",
            "Which day of the week is the one after {a}?",
        ),
        "zh": (
            "{a}的后一天是星期几？",
            "{a}之后是星期几？",
            "今天是{a}，明天是星期几？",
            "{a}的第二天是星期几？",
            "过了{a}，就到了星期几？",
        ),
    },
    "day before": {
        "en": (
            "What day comes before {a}?",
            "Which day precedes {a}?",
            "If today is {a}, what day was yesterday?",
            "Name the day before {a}.",
            "Which day of the week is the one before {a}?",
        ),
        "zh": (
            "{a}的前一天是星期几？",
            "{a}之前是星期几？",
            "今天是{a}，昨天是星期几？",
            "哪一天在{a}的前面？请写出星期几。",
            "明天是{a}，今天是星期几？",
        ),
    },
    "month after": {
        "en": (
            "What month comes after {a}?",
            "Which month follows {a}?",
            "Name the month after {a}.",
            "This month is {a}. What is next month?",
        ),
        "zh": ("{a}之后是几月？", "{a}的下一个月是几月？", "这个月是{a}，下个月是几月？", "过了{a}，就到了几月？"),
    },
    "month before": {
        "en": (
            "What month comes before {a}?",
            "Which month precedes {a}?",
            "Name the month before {a}.",
            "This month is {a}. What was last month?",
        ),
        "zh": ("{a}之前是几月？", "{a}的上一个月是几月？", "这个月是{a}，上个月是几月？", "下月是{a}，这个月是几月？"),
    },
    "opposite": {
        "en": (
            'What is the opposite of "{a}"?',
            "What is the opposite of {a}?",
            "Give the antonym of {a}.",
            "Which word means the opposite of {a}?",
            "Name a word opposite to {a}.",
        ),
        "zh": (
            "“{a}”的反义词是什么？",
            "写出“{a}”的反义词。",
            "与“{a}”相反的字是什么？",
            "“{a}”的相反是什么？",
            "请给出“{a}”的反义词。",
        ),
    },
    "colour": {
        "en": (
            "What colour is {a}?",
            "What is the colour of {a}?",
            "Name the colour of {a}.",
            "Which colour does {a} have?",
        ),
        "zh": ("{a}是什么颜色的？", "{a}的颜色是什么？", "说出{a}的颜色。", "{a}通常是什么颜色？"),
    },
    "capital": {
        "en": (
            "What is the capital of {a}?",
            "Which city is the capital of {a}?",
            "Name the capital of {a}.",
            "What is {a}'s capital?",
            "Tell me the capital city of {a}.",
        ),
        "zh": (
            "{a}的首都是哪里？",
            "{a}的首都是哪座城市？",
            "请说出{a}的首都。",
            "哪座城市是{a}的首都？",
            "{a}的首都叫什么？",
        ),
    },
    "country": {
        "en": (
            "Which country has the capital {a}?",
            "{a} is the capital of which country?",
            "Name the country whose capital is {a}.",
            "Of which country is {a} the capital?",
        ),
        "zh": ("{a}是哪个国家的首都？", "哪个国家的首都是{a}？", "首都是{a}的国家是哪个？", "说出以{a}为首都的国家。"),
    },
    "symbol": {
        "en": (
            "What is the chemical symbol of {a}?",
            "What is the symbol for {a}?",
            "Which symbol stands for the element {a}?",
            "Write the chemical symbol for {a}.",
        ),
        "zh": ("{a}的化学符号是什么？", "{a}的元素符号是什么？", "写出{a}的元素符号。", "元素{a}用什么符号表示？"),
    },
    "element": {
        "en": (
            "Which element has the symbol {a}?",
            "What element does the symbol {a} stand for?",
            "Name the element with the chemical symbol {a}.",
            "{a} is the chemical symbol of which element?",
        ),
        "zh": (
            "元素符号{a}表示哪种元素？",
            "{a}是哪种元素的符号？",
            "化学符号{a}代表什么元素？",
            "写出符号为{a}的元素。",
        ),
    },
}

STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "add": {
        "en": ("{a} + {b} = {answer}.", "{a} plus {b} is {answer}.", "The sum of {a} and {b} is {answer}."),
        "zh": ("{a} + {b} = {answer}。", "{a}加{b}是{answer}。", "{a}与{b}的和是{answer}。"),
    },
    "subtract": {
        "en": ("{a} - {b} = {answer}.", "{a} minus {b} is {answer}.", "{b} from {a} leaves {answer}."),
        "zh": ("{a} - {b} = {answer}。", "{a}减{b}是{answer}。", "从{a}中减去{b}，还剩{answer}。"),
    },
    "multiply": {
        "en": ("{a} × {b} = {answer}.", "{a} times {b} is {answer}."),
        "zh": ("{a} × {b} = {answer}。", "{a}乘以{b}是{answer}。"),
    },
    "compare": {
        "en": ("Of {both}, {answer} is the {word}.", "Among the numbers {both}, the {word} is {answer}."),
        "zh": ("在{both}中，{answer}{word}。", "{both}里{word}的数是{answer}。"),
    },
    "sort": {
        "en": ("{list} in ascending order: {answer}.", "Sorted from smallest to largest, {both} become {answer}."),
        "zh": ("{list}从小到大是{answer}。", "把{both}从小到大排列：{answer}。"),
    },
    "next": {"en": ("After {a} comes {answer}.",), "zh": ("{a}后面是{answer}。", "{a}的下一个数是{answer}。")},
    "previous": {"en": ("Before {a} comes {answer}.",), "zh": ("{a}前面是{answer}。", "{a}的上一个数是{answer}。")},
    "parity": {"en": ("{a} is {answer}.", "{a} is an {answer} number."), "zh": ("{a}是{answer}。",)},
    "count": {
        "en": ("Words in {list}: {answer}.", "Count of {a} in {list}: {answer}."),
        "zh": ("{list}：一共{answer}个“{a}”。", "{list}：“{a}”出现了{answer}次。"),
    },
    "reverse": {
        "en": ("{list} backwards is {answer}.", "{list} reversed: {answer}."),
        "zh": ("{list}倒过来是{answer}。", "{list}反过来写：{answer}。"),
    },
    "first": {"en": ("The first letter of {list} is {answer}.",), "zh": ("{list}，第一个字是{answer}。",)},
    "last": {"en": ("The last letter of {list} is {answer}.",), "zh": ("{list}，最后一个字是{answer}。",)},
    "day after": {
        "en": ("{answer} comes after {a}.", "The day after {a} is {answer}."),
        "zh": ("{a}的后一天是{answer}。", "{a}之后是{answer}。"),
    },
    "day before": {
        "en": ("{answer} comes before {a}.", "The day before {a} is {answer}."),
        "zh": ("{a}的前一天是{answer}。", "{a}之前是{answer}。"),
    },
    "month after": {
        "en": ("{answer} comes after {a}.", "The month after {a} is {answer}."),
        "zh": ("{a}之后是{answer}。", "{a}的下一个月是{answer}。"),
    },
    "month before": {
        "en": ("{answer} comes before {a}.", "The month before {a} is {answer}."),
        "zh": ("{a}之前是{answer}。", "{a}的上一个月是{answer}。"),
    },
    "opposite": {
        "en": ("The opposite of {a} is {answer}.", 'The opposite of "{a}" is "{answer}".'),
        "zh": ("“{a}”的反义词是“{answer}”。", "与“{a}”相反的是“{answer}”。"),
    },
    "colour": {
        "en": ("The colour of {a} is {answer}.",),
        "zh": ("{a}是{answer}的。", "{a}的颜色是{answer}。"),
    },
    "capital": {
        "en": ("The capital of {a} is {answer}.", "{a}'s capital is {answer}.", "{answer} is the capital city of {a}."),
        "zh": ("{a}的首都是{answer}。", "{a}的首都叫{answer}。", "{answer}是{a}的首都。"),
    },
    "country": {
        "en": ("{a} is the capital of {answer}.", "The country whose capital is {a} is {answer}."),
        "zh": ("{a}是{answer}的首都。", "首都是{a}的国家是{answer}。"),
    },
    "symbol": {
        "en": ("The chemical symbol of {a} is {answer}.", "The symbol for {a} is {answer}."),
        "zh": ("{a}的化学符号是{answer}。", "{a}的元素符号是{answer}。"),
    },
    "element": {
        "en": ("{a} is the symbol of {answer}.", "The element with the symbol {a} is {answer}."),
        "zh": ("{a}是{answer}的元素符号。", "元素符号{a}表示{answer}。"),
    },
}
