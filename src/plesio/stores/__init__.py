"""Where the journal and its snapshot live: an opaque-bytes contract (`base`) and its keepers."""
