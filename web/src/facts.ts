// What there is to know of an answer: how long it is, how fast it came, and how to get it again.

import type { Usage } from "./api.ts";
import type { Message } from "./message.ts";
import { el } from "./dom.ts";

export interface Facts {
  usage: Usage | null;
  seed: string | null;
}

/** One line that opens. `ask` fetches what this page did not hear. */
export function factsOf(
  message: Message,
  ask: () => Promise<Facts>,
  again: ((seed: string) => void) | null,
): HTMLElement {
  const list = el("dl");
  const summary = el("summary", { class: "note" }, describe(message) || "details");
  const details = el("details", { class: "facts" }, summary, list);
  const { answer } = message;
  details.addEventListener("toggle", () => {
    if (!details.open || list.childElementCount > 0) return;
    const known = answer?.usage ? Promise.resolve<Facts>(answer) : ask();
    known.then(
      (facts) => list.append(...rows(message, facts, again)),
      () => list.append(row("Details", "The server no longer keeps them.")),
    ).then(() => details.scrollIntoView({ block: "nearest" }));
  });
  return details;
}

function rows(
  { answer }: Message,
  { usage, seed }: Facts,
  again: ((seed: string) => void) | null,
): Node[] {
  const shown: Node[] = [];
  if (usage !== null) {
    const cached = usage.input_tokens_details?.cached_tokens ?? 0;
    shown.push(row("Answer", `${usage.output_tokens} tokens`));
    shown.push(row("Prompt", `${usage.input_tokens} tokens, ${cached} of them from the cache`));
  }
  const first = answer?.firstTokenMs;
  if (first != null) shown.push(row("First token", `after ${seconds(first)}`));
  if (seed === null) return shown;
  const isWanted = again !== null;
  const button = el("button", { type: "button", click: () => again?.(seed) }, "The same again");
  shown.push(row("Seed", el("code", {}, seed), ...(isWanted ? [button] : [])));
  return shown;
}

function row(name: string, ...values: (Node | string)[]): Node {
  return el("div", {}, el("dt", {}, name), el("dd", {}, ...values));
}

function seconds(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Why it ended early, how long it is, how fast it came. */
function describe({ answer, isCut }: Message): string {
  const parts: string[] = [];
  if (isCut && answer === null) parts.push("not complete");
  else if (isCut) parts.push(answer?.status === "incomplete" ? "ended at the limit" : "stopped");
  if (answer?.usage) parts.push(`${answer.usage.output_tokens} tokens`);
  const rate = answer?.tokensPerSecond;
  if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
  return parts.join(" · ");
}
