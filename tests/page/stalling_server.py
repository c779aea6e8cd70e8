"""A server process that repeats the user's message, and stalls after so many tokens.

`python -m tests.page.stalling_server PORT FOLDER STEPS`; killed and started again on the same port
and folder it goes on.
"""

import sys
from pathlib import Path

import uvicorn

from llamastream.api.app import create_app
from llamastream.api.http.transport import HttpProtocol
from llamastream.config import ServeSettings
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, make_responses, make_service


def main(port: int, folder: Path, num_steps: int) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    engine.allow(num_steps)
    service = make_service(engine)
    app = create_app(service, ServeSettings(), make_responses(service, folder))
    uvicorn.run(app, port=port, http=HttpProtocol, log_config=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
