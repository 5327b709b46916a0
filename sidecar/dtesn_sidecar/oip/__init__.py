"""The Open Inference Protocol v2: REST under `/v2`, and gRPC in `rpc`, which is imported only where it is asked for."""
