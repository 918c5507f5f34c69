"""Standard shapes and whole models, beside the original package and stock PyTorch: what run.py measures.

What is measured, and how: docs/performance.md.
"""
