"""Synthesis with language models behind OpenAI-compatible endpoints: the four steps (paper 2.1.1), paid for once.

``config`` says who does what, ``client`` asks, ``journal`` remembers every paid answer, ``instruct``, ``evolve``,
``respond`` and ``filtering`` are the steps, ``run`` is the run.
"""
