"""``python -m dcls_ops bench``: standard shapes and whole models, beside the original package and stock PyTorch.

What is measured, and how: docs/performance.md. ``pip install dcls_ops[bench]`` installs what it needs.
"""
