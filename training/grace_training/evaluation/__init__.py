"""`grace-eval`: the paper's tables, for any model."""
