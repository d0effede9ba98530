"""Bridges to programs that others have written; each is imported only by the program it is for."""
