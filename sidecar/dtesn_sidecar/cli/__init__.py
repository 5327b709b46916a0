"""The commands of `dtesn-sidecar`, one module each."""
