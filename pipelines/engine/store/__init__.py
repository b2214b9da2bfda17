"""Where everything that is kept lies, and how room is made."""
