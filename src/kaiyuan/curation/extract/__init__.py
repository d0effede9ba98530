"""From documents and logs of dialogues to (instruction, response) candidates.

One module a form: ``chats`` reads records of conversations, ``questions`` pages of questions and answers, ``exercises``
problems with solutions, ``code`` documented functions, ``lists`` headings with lists below them.
"""

from kaiyuan.curation.extract.run import extract

__all__ = ["extract"]
