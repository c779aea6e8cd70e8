"""One answer from its request to its end: tokens to text, journal, readers.

Knows no wire format, and of the engine only the protocol in `engine.py`. What the layers above may
use of it is here.
"""

from llamastream.generation.answers import Answers, NewAnswer
from llamastream.generation.engine import Engine
from llamastream.generation.generation import End, Generation
from llamastream.generation.history import Continued, History
from llamastream.generation.quotas import Quotas
from llamastream.generation.reader import Reader
from llamastream.generation.receipts import Receipt
from llamastream.generation.stored import StoredAnswers, StorePolicy
from llamastream.generation.verifying import Difference, Verification, Verifying

__all__ = [
    "Answers",
    "Continued",
    "Difference",
    "End",
    "Engine",
    "Generation",
    "History",
    "NewAnswer",
    "Quotas",
    "Reader",
    "Receipt",
    "StorePolicy",
    "StoredAnswers",
    "Verification",
    "Verifying",
]
