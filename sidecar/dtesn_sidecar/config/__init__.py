"""The sidecar's configuration: one specification out of a file, the environment and the command line.

What the fields mean and allow is `dtesn_api.spec`'s; here is where they come from and how a running server follows them.
"""

from dtesn_sidecar.config.reload import adopt, changes, watch
from dtesn_sidecar.config.sources import Configuration, load_configuration

__all__ = ["Configuration", "adopt", "changes", "load_configuration", "watch"]
