"""One module per data set: each turns a folder of its layout into a manifest's cases.

Every adapter is one function, ``index(root, *, options..., watch) -> Indexed``; the command is made
from its signature (``training.cli.index``). docs/manifests.md describes layouts and options.
"""
