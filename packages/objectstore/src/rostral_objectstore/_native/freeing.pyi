from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.table import ObjectTable

def free(table: ObjectTable, handle: Handle) -> bool: ...
