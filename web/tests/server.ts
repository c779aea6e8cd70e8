// A server in the test's hands: one answer with numbered events, and connections that break.

import { ConnectionLost } from "../src/api.ts";
import type { Clock } from "../src/follow.ts";

export function eventsOf(id: string, text: string, status = "completed"): string[] {
  const response = {
    id,
    status,
    error: status === "failed" ? { message: "it broke" } : null,
    output: [{ role: "assistant", content: [{ text }] }],
    usage: { input_tokens: 3, output_tokens: text.length + 1 },
  };
  const last = `response.${status === "cancelled" ? "incomplete" : status}`;
  const bodies: object[] = [
    { type: "response.created", response: { ...response, status: "in_progress", output: [] } },
    ...[...text].map((delta) => ({ type: "response.output_text.delta", delta })),
    { type: "response.output_text.done", text },
    { type: last, response },
  ];
  return bodies.map((body, k) => JSON.stringify({ ...body, sequence_number: k }));
}

/** A connection that delivers `events`, and then ends, or breaks. */
export function stream(events: string[], { breaks = false } = {}): Response {
  const bytes = new TextEncoder().encode(events.map((event) => `data: ${event}\n\n`).join(""));
  let isSent = false;
  return new Response(
    new ReadableStream<Uint8Array>({
      pull(controller) {
        if (!isSent) controller.enqueue(bytes);
        else if (breaks) controller.error(new ConnectionLost());
        else controller.close();
        isSent = true;
      },
    }),
  );
}

/** A clock that does not wait, and tells how long it would have. */
export class FastClock implements Clock {
  pauses: number[] = [];
  private ms = 0;

  now(): number {
    return (this.ms += 10);
  }

  sleep(ms: number): void {
    this.ms += ms;
  }

  async pause(ms: number): Promise<void> {
    this.pauses.push(ms);
  }
}
