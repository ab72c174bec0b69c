"""The device tier: arrays of GPUs in the store, shared between processes with no copy by the host.

Nothing here is imported before somebody has an array on a device or asks for one. Of the modules
here `cupy_backend` alone imports CuPy. Where to begin: docs/gpu.md, then `buffers`.
"""
