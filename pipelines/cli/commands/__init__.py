"""The commands of `rayfield`: a file each, found by its name."""
