# Nothing for Python: other native modules use it through chunks.pxd.
