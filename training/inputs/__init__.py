"""The inputs of a network: prepared images, the cache, augmentation, batches, targets.

Nothing is imported here: child processes that prepare images load ``prepare`` alone.
"""
