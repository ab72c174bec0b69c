"""Protocol messages: the .proto sources and the code generated from them, checked in.

Nothing but the adapters (service, client, error_wire, tables) may import from here.
"""
