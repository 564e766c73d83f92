"""The bench verb's parts: setup, launch, record, gate, table, ablation."""
