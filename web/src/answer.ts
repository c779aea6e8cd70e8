// An answer as its events tell it. Events may come twice or stop anywhere: it takes each once.

import type { Item, ResponseObject, Usage } from "./api.ts";
import { partOf, wordsOf, type Part } from "./message.ts";

export interface StreamEvent {
  type: string;
  sequence_number: number;
  delta?: string;
  output_index?: number;
  item?: Item;
  response?: ResponseObject;
  error?: { message: string };
}

export type AnswerStatus = ResponseObject["status"];

const ENDS = new Set(["response.completed", "response.incomplete", "response.failed"]);
const DELTAS = new Set([
  "response.output_text.delta",
  "response.refusal.delta",
  "response.reasoning_text.delta",
  "response.reasoning_summary_text.delta",
  "response.function_call_arguments.delta",
  "response.custom_tool_call_input.delta",
]);

export class Answer {
  readonly parts: Part[] = []; // one for each item of the output
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

  get text(): string {
    return wordsOf(this.parts);
  }

  get hasBegun(): boolean {
    return this.firstMs !== null;
  }

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
    } else if (event.item) {
      this.put(event.output_index ?? 0, event.item);
    } else if (DELTAS.has(event.type)) {
      this.firstMs ??= now;
      this.lastMs = now;
      const part = this.part(event.output_index ?? 0);
      if (part.kind === "call") part.input += event.delta!;
      else part.text += event.delta!;
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
    response.output.forEach((item, index) => this.put(index, item)); // the server's word is the last
  }

  private part(index: number): Part {
    while (this.parts.length <= index) this.parts.push({ kind: "text", text: "" });
    return this.parts[index]!;
  }

  private put(index: number, item: Item): void {
    const part = this.part(index);
    const fresh = partOf(item);
    if (fresh?.kind === part.kind) Object.assign(part, fresh);
    else if (fresh !== null) this.parts[index] = fresh;
  }
}
