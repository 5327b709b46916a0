"""Benchmarks: what is claimed, measured. `python -m bench --help`.

What computes here computes on one BLAS thread, as each of the sidecar's workers does; that is set before NumPy is loaded.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
