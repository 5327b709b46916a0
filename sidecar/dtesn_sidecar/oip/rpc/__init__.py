"""The protocol over gRPC, in the process and on the event loop of the server. Needs the extra `grpc`; imported only where it is asked for.

`open_inference.proto` is the protocol, `open_inference_pb2` its messages (generated), `messages` what they say, `service` the
methods and `listener` the port.
"""
