// The messages on the page, and what can be done with each.

import type { Chat, Message } from "./chat.ts";
import { copyButton, el, iconButton } from "./dom.ts";
import { MarkdownView } from "./markdown.ts";

export interface Actions {
  regenerate(): void;
  edit(index: number, text: string): void;
}

const NEAR_PX = 40; // from the end: a reader who is that close wants to stay there

/** Keeps to the end while the reader is there. */
export class MessageList {
  private readonly views = new Map<Message, MessageView>();
  private isAtEnd = true;
  private lastTop = 0;
  private isDue = false;

  constructor(
    private readonly scroller: HTMLElement,
    private readonly list: HTMLElement,
    private readonly toEnd: HTMLElement,
    private readonly chat: Chat,
    private readonly actions: Actions,
  ) {
    scroller.addEventListener("scroll", () => this.onScroll(), { passive: true });
    toEnd.addEventListener("click", () => this.scrollToEnd());
    new ResizeObserver(() => this.keepToEnd()).observe(scroller);
  }

  /** Show the chat as it is, with the next frame. */
  update(): void {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.draw();
    });
  }

  scrollToEnd(): void {
    this.isAtEnd = true;
    this.keepToEnd();
  }

  private draw(): void {
    const { messages } = this.chat;
    for (const [message, view] of this.views) {
      if (messages.includes(message)) continue;
      view.element.remove();
      this.views.delete(message);
    }
    messages.forEach((message, index) => {
      let view = this.views.get(message);
      if (view === undefined) {
        view = new MessageView(message, this.chat, this.actions);
        this.views.set(message, view);
        this.list.append(view.element);
      }
      view.update(index, index === messages.length - 1);
    });
    document.body.classList.toggle("empty", messages.length === 0);
    this.keepToEnd();
  }

  private keepToEnd(): void {
    if (this.isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.toEnd.hidden = this.isAtEnd || this.distance() < NEAR_PX;
  }

  private onScroll(): void {
    const top = this.scroller.scrollTop;
    if (this.distance() < NEAR_PX) this.isAtEnd = true;
    else if (top < this.lastTop) this.isAtEnd = false; // up is only ever the reader's doing
    this.lastTop = top;
    this.toEnd.hidden = this.isAtEnd;
  }

  private distance(): number {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }
}

class MessageView {
  readonly element: HTMLElement;
  private readonly body: HTMLElement;
  private readonly markdown: MarkdownView | null;
  private readonly footer = el("footer");
  private shown: string | null = null;
  private state = "";

  constructor(
    private readonly message: Message,
    private readonly chat: Chat,
    private readonly actions: Actions,
  ) {
    const isUser = message.role === "user";
    this.markdown = isUser ? null : new MarkdownView();
    this.body = this.markdown?.element ?? el("div", { class: "said" });
    const who = el("h2", { class: "offscreen" }, isUser ? "You" : "Answer");
    this.element = el("article", { class: message.role }, who, this.body, this.footer);
  }

  update(index: number, isLast: boolean): void {
    const { text } = this.message;
    if (text !== this.shown) {
      if (this.markdown) this.markdown.update(text);
      else this.body.textContent = text;
      this.shown = text;
    }
    const isLive = isLast && this.chat.isAnswering;
    const state = `${index} ${isLast} ${isLive} ${this.chat.isBusy}`;
    if (state === this.state) return;
    this.state = state;
    this.element.classList.toggle("live", isLive);
    this.element.setAttribute("aria-busy", String(isLive));
    this.footer.replaceChildren(...(isLive ? [] : this.tools(index, isLast)));
  }

  private tools(index: number, isLast: boolean): Node[] {
    const tools: Node[] = [copyButton(() => this.message.text)];
    if (!this.chat.isBusy) {
      const { regenerate } = this.actions;
      if (this.message.role === "user") {
        tools.push(iconButton("edit", "Edit", () => this.edit(index)));
        if (isLast) tools.push(iconButton("again", "Answer this", regenerate));
      } else if (isLast) tools.push(iconButton("again", "Answer again", regenerate));
    }
    const note = describe(this.message);
    const row = el("div", { class: "tools" }, ...tools);
    return note ? [el("span", { class: "note" }, note), row] : [row];
  }

  private edit(index: number): void {
    const area = el("textarea", { "aria-label": "Your message", rows: "3" });
    area.value = this.message.text;
    const close = () => form.replaceWith(this.body);
    const form = el(
      "form",
      {
        class: "edit",
        submit: (event) => {
          event.preventDefault();
          if (!area.value.trim()) return;
          close();
          this.actions.edit(index, area.value);
        },
        keydown: (event) => {
          const { key, shiftKey, isComposing } = event as KeyboardEvent;
          if (key === "Escape") close();
          else if (key === "Enter" && !shiftKey && !isComposing) {
            event.preventDefault();
            form.requestSubmit();
          }
        },
      },
      area,
      el("p", { class: "hint" }, "What follows this message is taken back."),
      el("div", { class: "row" }, el("button", { type: "button", click: close }, "Cancel")),
    );
    form.lastElementChild!.append(el("button", { class: "primary" }, "Send"));
    this.body.replaceWith(form);
    area.focus();
  }
}

/** What there is to say of an answer: why it ended early, how long it is, how fast it came. */
function describe({ answer, isCut }: Message): string {
  const parts: string[] = [];
  if (isCut && answer === null) parts.push("not complete");
  else if (isCut) parts.push(answer?.status === "incomplete" ? "ended at the limit" : "stopped");
  if (answer?.usage) parts.push(`${answer.usage.output_tokens} tokens`);
  const rate = answer?.tokensPerSecond;
  if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
  return parts.join(" · ");
}
