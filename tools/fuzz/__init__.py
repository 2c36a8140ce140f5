"""Fuzzing: random damage to files, by the thousand, until a reader does something else than refuse or load them."""
