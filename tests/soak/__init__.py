"""A soak: object and block load on real processes that are killed, stopped and started again."""
