// The parts of a message as elements: words, and the steps on the way to them, folded.

import { el } from "./dom.ts";
import { MarkdownView } from "./markdown.ts";
import type { Part } from "./message.ts";

/** What shows a part. */
interface View {
  readonly node: HTMLElement;
  /** Show it as it is by now; whether that is all of it. */
  update(part: Part, isLive: boolean): boolean;
}

export class PartsView {
  readonly element = el("div", { class: "parts" });
  private readonly views: { kind: Part["kind"]; view: View }[] = [];

  constructor(private readonly parts: Part[]) {}

  /** Show them as they are by now; whether that is all. */
  update(isLive: boolean): boolean {
    let isAll = true;
    this.parts.forEach((part, k) => {
      const isGrowing = isLive && k === this.parts.length - 1;
      isAll = this.at(k, part.kind).update(part, isGrowing) && isAll;
    });
    return isAll;
  }

  private at(k: number, kind: Part["kind"]): View {
    const shown = this.views[k];
    if (shown?.kind === kind) return shown.view;
    const view = kind === "text" ? new TextView() : kind === "call" ? new CallView() : new ReasoningView();
    if (shown) shown.view.node.replaceWith(view.node);
    else this.element.append(view.node);
    this.views[k] = { kind, view };
    return view;
  }
}

class TextView implements View {
  private readonly markdown = new MarkdownView();
  readonly node = this.markdown.element;

  update(part: Part, isLive: boolean): boolean {
    const isAll = part.kind !== "call" && this.markdown.update(part.text);
    if (isAll && !isLive) this.markdown.finish();
    return isAll;
  }
}

class ReasoningView implements View {
  private readonly text = new TextView();
  private readonly summary = el("summary");
  readonly node = el("details", { class: "step" }, this.summary, this.text.node);

  update(part: Part, isLive: boolean): boolean {
    label(this.summary, isLive ? "Thinking…" : "Thoughts", isLive);
    return this.text.update(part, isLive);
  }
}

class CallView implements View {
  private readonly summary = el("summary");
  private readonly input = el("pre", { tabindex: "0", "aria-label": "Arguments" });
  private readonly result = el("pre", { tabindex: "0", "aria-label": "Result" });
  readonly node = el("details", { class: "step", dir: "auto" }, this.summary, this.input, this.result);

  update(part: Part, isLive: boolean): boolean {
    if (part.kind !== "call") return true;
    const state = isLive ? "…" : part.result === null ? ", no result yet" : "";
    label(this.summary, `Tool: ${part.name || "result"}${state}`, isLive);
    if (this.input.textContent !== part.input) this.input.textContent = part.input;
    if (this.result.textContent !== part.result) this.result.textContent = part.result;
    this.input.hidden = part.input === "";
    this.result.hidden = part.result === null;
    return true;
  }
}

function label(summary: HTMLElement, words: string, isLive: boolean): void {
  if (summary.textContent !== words) summary.textContent = words;
  summary.classList.toggle("growing", isLive);
}
