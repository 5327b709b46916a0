"""The commands of `dtesn-operator`, one module each."""
