"""``python -m dcls_ops bench``: every standard shape, beside the original package and beside stock PyTorch.

What is measured, and how: docs/performance.md. ``pip install dcls_ops[bench]`` installs what it needs.
"""
