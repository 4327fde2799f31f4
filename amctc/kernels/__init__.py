"""Floor 3: what each operation computes, as plain functions on NumPy arrays; no graph, no files."""
