// What the keyboard does.

import { byId } from "./dom.ts";

export interface Deeds {
  begin(): void;
  search(): void;
  write(): void;
  stop(): void;
}

export function listen(deeds: Deeds): void {
  const help = byId<HTMLDialogElement>("keys-dialog");
  byId("keys").addEventListener("click", () => help.showModal());
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const isTyping = (event.target as HTMLElement).matches?.("input, textarea, select");
    const isCommand = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    let deed: (() => void) | null = null;
    if (isCommand && !event.altKey) {
      if (key === "k") deed = deeds.search;
      else if (key === "o" && event.shiftKey) deed = deeds.begin;
    } else if (key === "escape") return deeds.stop();
    else if (!isTyping && key === "/") deed = deeds.write;
    else if (!isTyping && key === "?") deed = () => help.showModal();
    if (deed === null) return;
    event.preventDefault();
    deed();
  });
}
