"""The worker: claim jobs, decode in child processes, score batches, write reports.

Nothing is imported here, so that the child processes load ``decode_process`` or ``shadow_process`` alone.
"""
