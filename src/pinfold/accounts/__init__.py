"""Accounts: who may sign requests, with which keys, and what they are called.

`accounts` creates and ends users and keys, `credentials` looks keys up for front ends, `sealing`
keeps secrets unreadable at rest. Front ends and `node` may import it; it knows no HTTP.
"""
