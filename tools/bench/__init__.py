"""Benchmarks: how fast and how exact the kernels and whole models are. README.md says what is in which file."""
