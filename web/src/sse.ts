// Server-sent events out of bytes, however the network cut them.

import { ConnectionLost } from "./api.ts";

/** The data of each event in `text`, which comes in any pieces. Comments are skipped. */
export class EventParser {
  private rest = "";
  private data: string[] = [];

  push(text: string): string[] {
    const events: string[] = [];
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop()!;
    for (const line of lines) {
      const clean = line.endsWith("\r") ? line.slice(0, -1) : line;
      if (clean.startsWith("data:")) {
        this.data.push(clean.slice(clean[5] === " " ? 6 : 5));
      } else if (clean === "" && this.data.length > 0) {
        events.push(this.data.join("\n"));
        this.data = [];
      }
    }
    return events;
  }
}

/** The events of a response's body as they come. `onBytes` is told of each piece, pings too.
 * Raises ConnectionLost. */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  onBytes: () => void,
): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new ConnectionLost();
    });
    if (done) return; // an event without its empty line was cut off, and comes again
    onBytes();
    yield* parser.push(decoder.decode(value, { stream: true }));
  }
}
