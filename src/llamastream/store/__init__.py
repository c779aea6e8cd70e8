"""What must survive: conversations, responses, and the journal of streams being generated.

Knows no wire format, no engine and no text encoding. The one invariant: what a future has confirmed
is there after the process was killed. `records` is what goes in and out; `store`, with SQLAlchemy
behind it, takes 0.2 s to import.
"""
