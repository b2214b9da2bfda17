"""Chapter 1: what deep learning on pictures had learned before."""
