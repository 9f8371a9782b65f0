"""Objects and buckets as use cases, without HTTP. May import cluster and below."""
