// Follows an answer to its end, through lost connections and restarts of the server.

import { ApiError, ConnectionLost, parseWithSeed } from "./api.ts";
import type { Answer, StreamEvent } from "./answer.ts";
import { readEvents } from "./sse.ts";

/** What the connection is doing, for one quiet line. */
export type Link = "live" | "lost" | "loading";

/** Open the stream of events behind number `after`, or begin it where there is none yet. */
export type Open = (answer: Answer, signal: AbortSignal) => Promise<Response>;

export interface Listener {
  onAnswer(): void;
  onLink(link: Link): void;
}

export interface Clock {
  now(): number; // milliseconds
  /** Wait, but not longer than until the network is back. */
  pause(ms: number, signal: AbortSignal): Promise<void>;
}

// The server says something every 15 s, if only a ping. Silence is a connection that died unheard.
const SILENCE_MS = 40_000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

/** Returns when the answer has ended. Raises ApiError, or an AbortError by `signal`. */
export async function follow(
  answer: Answer,
  open: Open,
  listener: Listener,
  signal: AbortSignal,
  clock: Clock = browserClock,
): Promise<void> {
  for (let failures = 0; !answer.hasEnded; failures++) {
    const before = answer.last;
    try {
      await readOnce(answer, open, listener, signal, clock);
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof ApiError && !error.isTemporary) throw error;
      if (!(error instanceof ApiError || error instanceof ConnectionLost)) throw error;
      listener.onLink(error instanceof ApiError && error.status === 503 ? "loading" : "lost");
      answer.interrupted();
      if (answer.last > before) failures = 0;
      await clock.pause(Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS), signal);
    }
  }
}

/** One connection, to the answer's end. Raises ConnectionLost when it breaks before. */
async function readOnce(
  answer: Answer,
  open: Open,
  listener: Listener,
  signal: AbortSignal,
  clock: Clock,
): Promise<void> {
  const connection = new AbortController();
  const hangUp = () => connection.abort();
  signal.addEventListener("abort", hangUp);
  let heardMs = clock.now();
  // Looks at the clock rather than waiting once: timers stand still while a laptop sleeps.
  const watch = setInterval(() => {
    if (clock.now() - heardMs > SILENCE_MS) hangUp();
  }, 2_000);
  try {
    const response = await open(answer, connection.signal);
    listener.onLink("live");
    for await (const data of readEvents(response.body!, () => (heardMs = clock.now()))) {
      if (data === "[DONE]") continue;
      const event = parseWithSeed<StreamEvent>(data);
      if (event.type === "error") break; // of this connection, not of the answer
      if (answer.apply(event, clock.now())) listener.onAnswer();
    }
  } catch (error) {
    if (connection.signal.aborted && !signal.aborted) throw new ConnectionLost();
    throw error;
  } finally {
    clearInterval(watch);
    signal.removeEventListener("abort", hangUp);
    hangUp();
  }
  if (!answer.hasEnded) throw new ConnectionLost();
}

export const browserClock: Clock = {
  now: () => Date.now(),
  pause: (ms, signal) =>
    new Promise((resolve, reject) => {
      const finish = () => {
        clearTimeout(timer);
        removeEventListener("online", finish);
        signal.removeEventListener("abort", stop);
        resolve();
      };
      const stop = () => {
        finish();
        reject(new DOMException("stopped", "AbortError"));
      };
      const timer = setTimeout(finish, ms);
      addEventListener("online", finish);
      signal.addEventListener("abort", stop);
    }),
};
