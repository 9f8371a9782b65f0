"""The composition root: settings in, real env made, roles wired. Only cli may import it."""
