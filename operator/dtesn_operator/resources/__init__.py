"""One pure builder per Kubernetes kind, and what they share: metadata, the settings, the container, the pod template.

A builder takes the resource and returns a manifest; which ones are wanted is decided in `desired.py`.
"""
