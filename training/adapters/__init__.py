"""One module per data set: each makes a manifest's cases of a folder in the data set's layout.

Every adapter is one function, ``index(root, *, options..., watch) -> IndexResult``; its signature defines
the command's options (``training.cli.index``). docs/manifests.md describes layouts and options.
"""
