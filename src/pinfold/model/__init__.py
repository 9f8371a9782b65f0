"""Nouns, errors, limits and settings: frozen values without I/O. Everyone may import it."""
