"""Load and measure: an engine in this process, or any OpenAI-compatible servers side by side.

Knows nothing of the service or the server: a server under test is a base URL, ours like a rival's.
The invariant: a number is shown only if every request behind it ended as it was asked to.
"""
