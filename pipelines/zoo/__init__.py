"""The catalogue of families, their certificates, and how one begins another."""
