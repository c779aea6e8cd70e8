// A message of the open conversation, and what it is to the server. Knows no DOM.

import type { Answer } from "./answer.ts";
import type { Item } from "./api.ts";

export interface Message {
  id: string | null; // its item's, once the server has one
  role: "user" | "assistant";
  text: string;
  answer: Answer | null; // what this page heard of it, if it did
  isCut: boolean; // stopped, or at a limit
}

// A response's message is named after it.
export function itemId(response: string): string {
  return response.replace(/^resp_/, "msg_");
}

export function isShown(item: Item): boolean {
  return item.role === "user" || item.role === "assistant";
}

export function toMessage(item: Item): Message {
  const message = newMessage(item.role === "user" ? "user" : "assistant", textOf([item]));
  return { ...message, id: item.id, isCut: item.status === "incomplete" };
}

export function textOf(items: Item[]): string {
  return items.flatMap((item) => item.content.map((part) => part.text)).join("");
}

export function newMessage(role: Message["role"], text: string, answer: Answer | null = null): Message {
  return { id: null, role, text, answer, isCut: false };
}
