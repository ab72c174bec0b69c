"""Protocol messages: the .proto sources and the code generated from them, checked in.

Nothing but the gRPC front may import from here.
"""
