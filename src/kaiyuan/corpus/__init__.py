"""From raw text to token shards: sources, cleaning, deduplication, splits, shards and the loader that reads them."""
