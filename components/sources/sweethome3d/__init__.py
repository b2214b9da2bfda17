"""The libraries of Sweet Home 3D, of which `furniture` is made."""
