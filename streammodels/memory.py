"""stub"""
def parse_bytes(x): return x
def strip_rows_within(*a): return 64
