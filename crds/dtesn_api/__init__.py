"""The contract between the operator, the sidecar and their users: specification, status, bodies and names.

A leaf package: it depends on msgspec and the standard library alone.
"""
