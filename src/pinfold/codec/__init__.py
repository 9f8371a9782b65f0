"""Bytes to bytes: record formats, checksums, name encoding. Pure; may import model."""
