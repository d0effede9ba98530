"""Data for SFT: instructions extracted, labelled, balanced and checked in three tiers (paper 3.1).

``extract`` makes candidates, ``rules``, ``critique`` and people (``review``) decide about them, ``log`` remembers every
decision, ``build`` makes a data set out of candidates and log.
"""
