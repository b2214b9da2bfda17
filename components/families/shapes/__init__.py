"""Chapter 2: networks on volumes, views and points."""
