"""C++ that this machine's own compiler builds, the first time it is needed.

``build`` compiles and loads it, ``source`` has what all of it includes.
"""
