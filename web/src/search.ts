// Finding conversations by what was said in them.

import type { Api, Found } from "./api.ts";
import { byId, el } from "./dom.ts";
import { textOf } from "./message.ts";
import { titleOfConversation } from "./sidebar.ts";

const PAUSE_MS = 150; // of the person who types

export class Search {
  private readonly field = byId<HTMLInputElement>("search");
  private readonly list = byId("found");
  private asking = new AbortController();
  private timer = 0;

  constructor(
    private readonly api: Api,
    private readonly onError: (error: unknown) => void,
  ) {
    this.field.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => void this.ask(), PAUSE_MS);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.list.querySelector("a")?.focus();
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.field.value = "";
      void this.ask();
    });
  }

  focus(): void {
    document.body.classList.add("menu-open");
    this.field.select();
  }

  private async ask(): Promise<void> {
    this.asking.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const query = this.field.value.trim();
    const isAsked = /[\p{L}\p{N}]/u.test(query);
    byId("found").hidden = !isAsked;
    byId("conversations").hidden = isAsked;
    if (!isAsked) return;
    try {
      const found = await this.api.search(query.slice(0, 200), signal);
      const nothing = el("li", { class: "hint" }, "Nothing was found.");
      this.list.replaceChildren(...(found.length > 0 ? found.map((one) => entry(one, query)) : [nothing]));
    } catch (error) {
      if (!signal.aborted) this.onError(error);
    }
  }
}

function entry({ conversation, item }: Found, query: string): HTMLElement {
  const title = el("span", { dir: "auto" }, titleOfConversation(conversation));
  const link = el("a", { href: `#${conversation.id}` }, title);
  if (item !== null) {
    const words = query.toLowerCase().split(/\s+/);
    link.append(el("small", { dir: "auto" }, ...around(textOf([item]), words)));
  }
  return el("li", {}, link);
}

/** The part of a text that holds the first of `words`, with that marked. */
function around(text: string, words: string[]): (Node | string)[] {
  const line = text.replace(/\s+/g, " ");
  const lower = line.toLowerCase();
  const word = words.find((word) => word && lower.includes(word));
  if (word === undefined) return [line.slice(0, 90)];
  const start = lower.indexOf(word);
  const from = Math.max(0, start - 30);
  const end = start + word.length;
  const before = (from > 0 ? "…" : "") + line.slice(from, start);
  return [before, el("mark", {}, line.slice(start, end)), line.slice(end, end + 60)];
}
