"""Where batches are computed: worker processes, threads, and the helper processes that build weights and decode.

It imports the model and the seam of batching, never the manager. The HTTP server does not look in here.
"""
