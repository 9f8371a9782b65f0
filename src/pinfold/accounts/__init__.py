"""Users and their keys. May import cluster and below."""
