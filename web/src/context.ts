// How much of the model's context the open conversation takes, and what can be done when it is full.

import type { Usage } from "./api.ts";
import { byId } from "./dom.ts";

export type WayOut = "drop" | "shorten" | "summarise";

export class ContextGauge {
  private readonly button = byId<HTMLButtonElement>("context");
  private readonly dialog = byId<HTMLDialogElement>("context-dialog");

  constructor(onWayOut: (way: WayOut) => void) {
    this.button.addEventListener("click", () => this.open(""));
    this.dialog.addEventListener("close", () => {
      const way = this.dialog.returnValue;
      if (way === "drop" || way === "shorten" || way === "summarise") onWayOut(way);
    });
  }

  /** Show what the last answer and its prompt took of `limit` tokens. */
  show(usage: Usage | null, limit: number | null): void {
    this.button.hidden = usage === null || limit === null;
    if (usage === null || limit === null) return;
    const used = usage.input_tokens + usage.output_tokens;
    const percent = Math.min(100, Math.round((100 * used) / limit));
    byId<HTMLMeterElement>("context-meter").value = percent;
    byId("context-text").textContent = `${percent} %`;
    const words = `${used} of ${limit} tokens of context used, ${Math.max(0, limit - used)} left`;
    this.button.title = words;
    this.button.setAttribute("aria-label", `${percent} %: ${words}`);
    byId("context-used").textContent = `${words}.`;
  }

  open(why: string): void {
    byId("context-why").textContent = why;
    byId("context-why").hidden = !why;
    this.dialog.returnValue = "";
    this.dialog.showModal();
  }
}
