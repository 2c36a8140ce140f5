"""Tiny models of the families that only llama.cpp's own converter has, written by transformers itself."""
