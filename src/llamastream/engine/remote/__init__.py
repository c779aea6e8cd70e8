"""Engines on other machines, over HTTP by token ids: vLLM behind our own protocol."""
