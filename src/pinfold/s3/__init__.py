"""The S3 HTTP API: router, signatures, one file per verb, error table.

May import objects, accounts and below.
"""
