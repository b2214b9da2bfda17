"""The one training loop of all families: torch alone, on one process or on several."""
