"""Jina's wire, gRPC and HTTP, for clients that send DocArray documents. Needs neither package."""
