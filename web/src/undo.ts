// What is deleted can be had back for a moment: the server hears of it when that has passed.

import { byId } from "./dom.ts";

const UNDO_MS = 7_000;

export class Undo {
  private due: { run: () => void; timer: number } | null = null;

  constructor() {
    byId("undo").addEventListener("click", () => this.undo());
    addEventListener("pagehide", () => this.flush());
  }

  private onUndo: () => void = () => {};

  /** Say `words`, and do `run` later unless `onUndo` comes before. */
  offer(words: string, run: () => void, onUndo: () => void): void {
    this.flush();
    byId("undo-text").textContent = words;
    byId("undo-bar").hidden = false;
    this.onUndo = onUndo;
    this.due = { run, timer: setTimeout(() => this.flush(), UNDO_MS) };
  }

  /** Do now what is due. */
  flush(): void {
    const due = this.take();
    due?.run();
  }

  private undo(): void {
    if (this.take()) this.onUndo();
  }

  private take() {
    const due = this.due;
    if (due) clearTimeout(due.timer);
    this.due = null;
    byId("undo-bar").hidden = true;
    return due;
  }
}
