"""Whose process is it, and what to do with those of a session that nobody else ends. Stdlib only."""
