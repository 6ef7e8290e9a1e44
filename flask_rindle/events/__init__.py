"""Wake-ups: how a reader of rows learns early that there is something to read."""
