"""The policies of the schedulers: plain objects that take events and a clock and return actions.

Nothing in here opens a socket, starts a process or reads a clock (OSDI'18 §4.2.2).
"""
