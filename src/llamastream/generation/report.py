"""What is logged and counted of a request that has ended: one line, no text of anybody."""

import logging
from typing import NamedTuple

from llamastream.metrics import Metrics
from llamastream.types import Usage

logger = logging.getLogger(__name__)


class Report(NamedTuple):
    request_id: str
    key: str  # the name of the caller's API key, may be empty
    label: str  # the caller's own name for it, may be empty
    usage: Usage
    queue_s: float | None  # from admission until the engine began with it
    ttft_s: float | None  # from admission to the first token
    itl_s: float | None  # mean time between the tokens of one choice
    outcome: str  # a finish reason, or an error's code

    def write(self, metrics: Metrics) -> None:
        """The one log line of a request, and its counts."""
        ttft_s, itl_s, usage = self.ttft_s, self.itl_s, self.usage
        logger.info(
            "done request_id=%s%s%s prompt=%d cached=%d out=%d queue_ms=%s ttft_ms=%s itl_ms=%s "
            "finish=%s",
            self.request_id,
            f" key={self.key}" if self.key else "",
            f" label={self.label}" if self.label else "",
            *usage[:3],
            _ms(self.queue_s, 0),
            _ms(ttft_s, 0),
            _ms(itl_s, 1),
            self.outcome,
        )
        metrics.requests.labels(self.outcome).inc()
        metrics.prompt_tokens.inc(usage.num_prompt_tokens)
        metrics.cached_tokens.inc(usage.num_cached_tokens)
        if ttft_s is not None:
            metrics.ttft.observe(ttft_s)
        if itl_s is not None:
            metrics.tpot.observe(itl_s)


def _ms(seconds: float | None, digits: int) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.{digits}f}"
