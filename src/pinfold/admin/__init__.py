"""The admin HTTP API: health, metrics, status, volumes, users.

May import objects, volumes, accounts and below.
"""
