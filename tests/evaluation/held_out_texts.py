"""Two short texts to measure on."""

from __future__ import annotations

ENGLISH = (
    "The morning was clear and cold. A small boat left the harbour before the sun was up. Nobody on the quay had seen "
    "it go. By noon the wind had turned, and the old men said that it would not come back before evening."
)
CHINESE = (
    "清晨天气晴朗而寒冷。太阳升起之前，一条小船离开了港口。码头上没有人看见它出海。"
    "到了中午，风向变了，老人们说它傍晚之前不会回来。"
)
