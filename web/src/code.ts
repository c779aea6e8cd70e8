// A block of code: it grows in pieces, and gets its colours when it is whole.

import type { Block } from "./blocks.ts";
import { copyButton, el } from "./dom.ts";

const PIECE = 4_000; // characters that are laid out again as code grows
const MAX_COLOURED = 30_000; // characters: beyond it colouring would hold up the page

export class CodeView {
  readonly node: HTMLElement;
  private readonly code = el("code");
  private shown = "";
  private readonly language = el("span");

  constructor(readonly block: Block) {
    const head = el("div", { class: "code-head" }, this.language);
    head.append(copyButton(() => this.code.textContent!, "Copy code"));
    const pre = el("pre", { tabindex: "0" }, this.code);
    this.node = el("div", { class: "code", dir: "ltr" }, head, pre);
    this.language.textContent = block.of.language!;
  }

  draw(): void {
    const { text } = this.block;
    if (!text.startsWith(this.shown)) {
      this.code.replaceChildren();
      this.shown = "";
    }
    for (let start = this.shown.length; start < text.length; ) {
      const end = Math.min(text.length, (Math.floor(start / PIECE) + 1) * PIECE);
      const last = this.code.lastChild;
      if (start % PIECE && last instanceof Text) last.appendData(text.slice(start, end));
      else this.code.append(text.slice(start, end));
      start = end;
    }
    this.shown = text;
  }

  close(): void {
    const { text } = this.block;
    const language = this.block.of.language!;
    if (!language || !text || text.length > MAX_COLOURED) return;
    import("./colours.ts")
      .then(({ coloured }) => {
        const nodes = coloured(text, language);
        if (this.shown === text) this.code.replaceChildren(...nodes);
      })
      .catch(() => {}); // it is readable without
  }
}
