"""llamastream: a self-hosted streaming chat service for Llama-family models."""

__version__ = "0.1.0"
__all__ = ["__version__"]
