"""Chapter 7: generative models."""
