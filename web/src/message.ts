// A message of the open conversation: what it is to the server, and its parts. Knows no DOM.

import type { Answer } from "./answer.ts";
import type { Item } from "./api.ts";

/** What a message is made of, in this order: words, and the steps on the way to them. */
export type Part =
  | { kind: "text" | "reasoning"; text: string }
  | { kind: "call"; id: string; name: string; input: string; result: string | null };

/** What a person said, or all that came between that and what they said next. */
export class Message {
  /** Of its items, once the server has them: what is said next comes after the last. */
  ids: string[] = [];
  isCut = false; // stopped, or at a limit

  constructor(
    readonly role: "user" | "assistant",
    readonly parts: Part[],
    readonly answer: Answer | null = null, // what this page heard of it, if it did
  ) {}

  get id(): string | null {
    return this.ids.at(-1) ?? null;
  }

  get text(): string {
    return wordsOf(this.parts);
  }

  /** Whether the server's `fresh` is this message. */
  isSame(fresh: Message): boolean {
    const { ids, parts } = this;
    if (ids.length > 0 && !ids.some((id) => fresh.ids.includes(id))) return false;
    return this.role === fresh.role && fresh.parts.length <= parts.length && this.text === fresh.text;
  }

  /** Take what the server knows more of it: ids, and results of calls. */
  take(fresh: Message): void {
    this.ids = fresh.ids;
    for (const { id, result } of fresh.parts.filter(isCall)) {
      const call = this.parts.filter(isCall).find((call) => call.id === id);
      if (call) call.result = result;
    }
  }
}

export function wordsOf(parts: Part[]): string {
  return parts.reduce((words, part) => (part.kind === "text" ? words + part.text : words), "");
}

// A response's message is named after it.
export function itemId(response: string): string {
  return response.replace(/^resp_/, "msg_");
}

export function said(text: string): Message {
  return new Message("user", [{ kind: "text", text }]);
}

/** The messages that items make: steps belong to the answer behind them, results to their calls. */
export function toMessages(items: Item[]): Message[] {
  const messages: Message[] = [];
  for (const item of items) {
    let last = messages.at(-1);
    const part = partOf(item);
    if (part !== null) {
      const role = item.role === "user" ? "user" : "assistant";
      const isNext = item.role !== undefined && last?.parts.some(({ kind }) => kind === "text");
      if (last === undefined || last.role !== role || isNext) messages.push((last = new Message(role, [])));
      add(last.parts, part);
    }
    last?.ids.push(item.id);
    if (last && item.status === "incomplete") last.isCut = true;
  }
  return messages;
}

/** What an item adds to its message; null where nothing of it is shown. */
export function partOf(item: Item): Part | null {
  switch (item.type ?? "message") {
    case "message":
      if (item.role !== "user" && item.role !== "assistant") return null;
      return { kind: "text", text: textOf([item]) };
    case "reasoning":
      return { kind: "reasoning", text: texts([...(item.summary ?? []), ...(item.content ?? [])], "\n\n") };
    case "function_call":
    case "custom_tool_call": {
      const input = item.arguments ?? item.input ?? "";
      return { kind: "call", id: item.call_id!, name: item.name!, input, result: null };
    }
    case "function_call_output":
    case "custom_tool_call_output": {
      const { output = "" } = item;
      const result = typeof output === "string" ? output : texts(output, "\n");
      return { kind: "call", id: item.call_id!, name: "", input: "", result };
    }
    default:
      return null;
  }
}

export function textOf(items: Item[]): string {
  return items.map(({ content = [] }) => texts(content, "")).join("");
}

function texts(parts: { text?: string; refusal?: string }[], between: string): string {
  return parts.map(({ text, refusal }) => text ?? refusal ?? "").join(between);
}

function add(parts: Part[], part: Part): void {
  const call = isCall(part) && part.name === "" && parts.filter(isCall).find(({ id }) => id === part.id);
  if (call) call.result = (part as typeof call).result;
  else parts.push(part);
}

function isCall(part: Part): part is Extract<Part, { kind: "call" }> {
  return part.kind === "call";
}
