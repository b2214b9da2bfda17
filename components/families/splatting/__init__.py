"""Chapter 6: scenes of splats."""
