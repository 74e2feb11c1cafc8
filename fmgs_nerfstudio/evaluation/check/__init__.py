"""Is a capture what its reader takes it for? Seen before any training."""
