"""Network modules only; training lives in the module of each step."""
