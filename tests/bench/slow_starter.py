"""A server process that is a while in coming: `slow_starter.py PORT REFUSALS`, or PORT fail."""

import asyncio
import sys

from scripted_server import Request, ScriptedServer, answer_json, stream


async def main(port: int, num_refusals: int) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) <= num_refusals:
            await answer_json(writer, {"error": {"message": "loading"}}, status=503)
        else:
            await stream(request, writer)

    server = ScriptedServer(script)
    async with await asyncio.start_server(server.handle, "127.0.0.1", port) as listener:
        await listener.serve_forever()


if __name__ == "__main__":
    if sys.argv[2] == "fail":
        sys.exit(3)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
