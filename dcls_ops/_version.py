"""The version, for pyproject.toml too; here rather than in the metadata, which frozen programs may lack."""

__version__ = "0.1.0"
