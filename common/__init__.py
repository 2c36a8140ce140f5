"""What every other folder builds on: the format, the errors, and the one way to do what all of them need.

Facts: `format` (types and layout), `paths` (where things are kept), `cpu` and `compilers` (what this machine has).
Work: `files` (write a file whole or not at all), `trust` (whether a file is ours alone),
`lock` (one process at a time), `process` (start a child process).
Output: `console` (lines on stderr), `progress` (bars), `tables` (Markdown).
Imports nothing of convert, kernels or tools.
"""
