"""The worker: claims jobs, decodes in child processes, scores batches, writes reports.

Nothing is imported here: the child processes load ``decode_process`` or ``shadow_process`` alone.
"""
