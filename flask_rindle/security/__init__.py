"""Words that must be safe: tokens, names and types."""
