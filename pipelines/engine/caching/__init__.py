"""Cache keys: what they hold, and why one changed."""
