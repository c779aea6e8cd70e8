// An answer as its events tell it. Events may come twice or stop anywhere: it takes each once.

import type { ResponseObject, Usage } from "./api.ts";

export interface StreamEvent {
  type: string;
  sequence_number: number;
  delta?: string;
  response?: ResponseObject;
  error?: { message: string };
}

export type AnswerStatus = ResponseObject["status"];

const ENDS = new Set(["response.completed", "response.incomplete", "response.failed"]);

export class Answer {
  text = "";
  status: AnswerStatus = "in_progress";
  error: string | null = null;
  usage: Usage | null = null;
  /** The number of the last event that was taken: where the next connection goes on. */
  last = -1;
  /** Digits: with it the same request gets the same answer. */
  seed: string | null = null;
  private firstMs: number | null = null;
  private lastMs = 0;
  private isWhole = true; // heard on one connection, so that its times mean something

  /** `sentMs` is when it was asked for, where this page did. */
  constructor(
    public id: string | null = null,
    private readonly sentMs: number | null = null,
  ) {}

  get hasEnded(): boolean {
    return this.status !== "in_progress";
  }

  /** Tokens per second between the first and the last; null where that was not heard. */
  get tokensPerSecond(): number | null {
    if (!this.isWhole || this.firstMs === null || this.usage === null) return null;
    const seconds = (this.lastMs - this.firstMs) / 1000;
    const count = this.usage.output_tokens - 1;
    return count > 0 && seconds > 0 ? count / seconds : null;
  }

  /** Milliseconds to the first token; null where that was not heard. */
  get firstTokenMs(): number | null {
    if (!this.isWhole || this.firstMs === null || this.sentMs === null) return null;
    return this.firstMs - this.sentMs;
  }

  /** Take an event; whether it was new. `now` in milliseconds. */
  apply(event: StreamEvent, now: number): boolean {
    if (event.sequence_number <= this.last) return false;
    this.last = event.sequence_number;
    if (event.type === "response.created") {
      this.id = event.response!.id;
      this.seed = event.response!.seed ?? null;
    } else if (event.type === "response.output_text.delta") {
      this.firstMs ??= now;
      this.lastMs = now;
      this.text += event.delta!;
    } else if (ENDS.has(event.type)) {
      this.end(event.response!);
    }
    return true;
  }

  /** The connection was lost: what follows was not heard as it was made. */
  interrupted(): void {
    this.isWhole = false;
  }

  private end(response: ResponseObject): void {
    this.status = response.status;
    this.usage = response.usage;
    this.error = response.error?.message ?? null;
    const text = response.output[0]?.content[0]?.text;
    if (text !== undefined) this.text = text; // the server's word is the last
  }
}
