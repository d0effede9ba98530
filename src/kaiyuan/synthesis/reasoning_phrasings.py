"""How problems of ``kaiyuan.synthesis.reasoning`` are put into words, in English and Chinese."""

from __future__ import annotations

REASONING_QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "linear": {
        "en": (
            "Solve for x: {a}x + {b} = {c}.",
            "If {a}x + {b} = {c}, what is x?",
            "I think of a number, multiply it by {a} and add {b}. The result is {c}. What is my number?",
        ),
        "zh": (
            "解方程：{a}x + {b} = {c}。",
            "如果 {a}x + {b} = {c}，那么x等于多少？",
            "我想一个数，把它乘以{a}再加上{b}，得{c}。这个数是多少？",
        ),
    },
    "linear minus": {
        "en": (
            "Solve for x: {a}x - {b} = {c}.",
            "If {a}x - {b} = {c}, what is x?",
            "I think of a number, multiply it by {a} and subtract {b}. The result is {c}. What is my number?",
        ),
        "zh": (
            "解方程：{a}x - {b} = {c}。",
            "如果 {a}x - {b} = {c}，那么x等于多少？",
            "我想一个数，把它乘以{a}再减去{b}，得{c}。这个数是多少？",
        ),
    },
    "pair": {
        "en": (
            "Two numbers add up to {a} and differ by {b}. What is the {word} of the two?",
            "x + y = {a} and x - y = {b}. What is {letter}?",
        ),
        "zh": (
            "两个数的和是{a}，相差{b}，其中{word}的数是多少？",
            "已知 x + y = {a}，x - y = {b}，{letter}等于多少？",
        ),
    },
    "proportion": {
        "en": ("{a} tickets cost {b} dollars. How many dollars do {c} tickets cost?",),
        "zh": ("{a}张票一共{b}元，{c}张同样的票一共多少元？",),
    },
    "order": {
        "en": ("{clues} Who is the {word}?", "{clues} Of these people, who is the {word}?"),
        "zh": ("{clues}谁{word}？", "{clues}这些人里，谁{word}？"),
    },
    "culprit": {
        "en": (
            "One of {people} took the key. {clues} Exactly one of these sentences is true. Who took the key?",
            "The key was taken by one of {people}. {clues} Only one of them tells the truth. Who took the key?",
        ),
        "zh": (
            "{people}中有一个人拿了钥匙。{clues}这几句话里只有一句是真的。钥匙是谁拿的？",
            "钥匙被{people}中的一个人拿走了。{clues}他们中只有一个人说了真话。是谁拿的？",
        ),
    },
    "table total": {
        "en": ("Here is a table of what people sold.\n\n{table}\n\nHow many {column} were sold in total?",),
        "zh": ("下表是各人的销量。\n\n{table}\n\n一共卖了多少{column}？",),
    },
    "table most": {
        "en": ("Here is a table of what people sold.\n\n{table}\n\nWho sold the most {column}?",),
        "zh": ("下表是各人的销量。\n\n{table}\n\n谁卖的{column}最多？",),
    },
    "table row": {
        "en": ("Here is a table of what people sold.\n\n{table}\n\nHow many things did {person} sell altogether?",),
        "zh": ("下表是各人的销量。\n\n{table}\n\n{person}总共卖了多少件？",),
    },
    "table count": {
        "en": ("Here is a table of what people sold.\n\n{table}\n\nHow many people sold more than {a} {column}?",),
        "zh": ("下表是各人的销量。\n\n{table}\n\n有几个人卖的{column}超过{a}？",),
    },
    "code": {
        "en": (
            "Write a Python function process(numbers) that takes a list of integers, {steps}, and returns the result.",
            "In Python, define process(numbers). Given a list of integers it {steps}. Return the result.",
        ),
        "zh": (
            "用Python写一个函数process(numbers)：给定整数列表，{steps}，并返回结果。",
            "请定义Python函数process(numbers)，它对整数列表做如下处理：{steps}，最后返回结果。",
        ),
    },
}
