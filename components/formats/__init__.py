"""Files of shapes to meshes, one module for each format."""
