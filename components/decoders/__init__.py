"""One file for each format of shapes."""
