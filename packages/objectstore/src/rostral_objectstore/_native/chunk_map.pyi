from rostral_objectstore._native.table import ObjectTable

def chunk_map(
    table: ObjectTable,
) -> tuple[list[tuple[int, int, int]], dict[int, tuple[int, int, bytes]]]: ...
