"""/v1/responses, over HTTP (`api`) and WebSocket (`socket`); both begin at the `desk`."""
