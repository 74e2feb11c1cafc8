"""Plans of many captures, on a local pool or a Ray cluster."""
