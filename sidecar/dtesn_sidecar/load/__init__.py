"""How loaded this server is: providers, and the tracker that combines them. Never imports batching."""

from dtesn_sidecar.load.readings import LoadProvider, NoData, Reading
from dtesn_sidecar.load.tracker import ServerLoadTracker

__all__ = ["LoadProvider", "NoData", "Reading", "ServerLoadTracker"]
