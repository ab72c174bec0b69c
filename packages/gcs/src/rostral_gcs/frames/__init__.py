"""Calls and streams over a socket of our own, beside gRPC and with the same credentials.

For any service of the project whose calls are too frequent for gRPC, which takes 0.5 ms of two
processors for an empty one. ``wire.py`` is the form of what travels (pure), ``server.py`` the side
that listens, ``client.py`` the side that calls, ``tls.py`` its encryption. What a frame's body
means, and which method has which number, is each service's own.
"""
