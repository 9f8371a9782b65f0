"""Accounts: who may sign requests, with which keys, and what they are called."""
