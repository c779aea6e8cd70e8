"""What can go wrong in a benchmark. Both end as one line for the user, never as a number.

ChatError
└── BenchError       the benchmark cannot run: bad option, server absent or not OpenAI-compatible
    └── ServerFailed  one request failed: refused, cut in the middle, or answered with an error
"""

from llamastream.errors import ChatError


class BenchError(ChatError):
    code = "bench_error"


class ServerFailed(BenchError):
    code = "server_failed"
