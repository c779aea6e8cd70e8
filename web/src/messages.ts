// The messages on the page, and what can be done with each.

import type { Chat } from "./chat.ts";
import { copyButton, el, iconButton } from "./dom.ts";
import { factsOf, type Facts } from "./facts.ts";
import type { Message } from "./message.ts";
import { PartsView } from "./parts.ts";

export interface Actions {
  regenerate(seed?: string): void;
  show(version: string): void;
  facts(message: Message): Promise<Facts>;
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
    let isAll = true;
    messages.forEach((message, index) => {
      let view = this.views.get(message);
      if (view === undefined) {
        view = new MessageView(message, this.chat, this.actions);
        this.views.set(message, view);
        this.list.append(view.element);
      }
      isAll = view.update(index, index === messages.length - 1) && isAll;
    });
    if (!isAll) this.update(); // the rest of a long text with the next frame
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
  private readonly parts: PartsView | null;
  private readonly footer = el("footer");
  private shown: string | null = null;
  private state = "";

  constructor(
    private readonly message: Message,
    private readonly chat: Chat,
    private readonly actions: Actions,
  ) {
    const isUser = message.role === "user";
    this.parts = isUser ? null : new PartsView(message.parts);
    this.body = this.parts?.element ?? el("div", { class: "said", dir: "auto" });
    const who = el("h2", { class: "offscreen" }, isUser ? "You" : "Answer");
    this.element = el("article", { class: message.role }, who, this.body, this.footer);
  }

  /** Whether all of it is shown by now. */
  update(index: number, isLast: boolean): boolean {
    const isLive = isLast && this.chat.isAnswering;
    const isAll = this.show(isLive);
    const versions = this.chat.versions(this.message);
    const state = [index, isLast, isLive, this.chat.isBusy, versions.length].join();
    if (state === this.state) return isAll;
    this.state = state;
    this.element.classList.toggle("live", isLive);
    this.element.setAttribute("aria-busy", String(isLive));
    this.footer.replaceChildren(...(isLive ? [] : this.tools(index, isLast)));
    return isAll;
  }

  private show(isLive: boolean): boolean {
    if (this.parts) return this.parts.update(isLive);
    const { text } = this.message;
    if (text !== this.shown) this.body.textContent = this.shown = text;
    return true;
  }

  private tools(index: number, isLast: boolean): Node[] {
    const tools: Node[] = [copyButton(() => this.message.text)];
    if (!this.chat.isBusy) {
      const { regenerate } = this.actions;
      if (this.message.role === "user") {
        tools.push(iconButton("edit", "Edit", () => this.edit(index)));
        if (isLast) tools.push(iconButton("again", "Answer this", () => regenerate()));
      } else if (isLast) tools.push(iconButton("again", "Answer again", () => regenerate()));
    }
    const row = el("div", { class: "tools" }, ...tools);
    const versions = this.versions();
    if (versions) row.prepend(versions);
    if (this.message.role === "user") return [row];
    const again = isLast && !this.chat.isBusy ? this.actions.regenerate : null;
    return [row, factsOf(this.message, () => this.actions.facts(this.message), again)];
  }

  /** Arrows to what else was said here. */
  private versions(): HTMLElement | null {
    const ids = this.chat.versions(this.message);
    if (ids.length < 2) return null;
    const here = ids.indexOf(this.message.ids[0]!);
    const arrow = (name: string, label: string, to: number) => {
      const button = iconButton(name, label, () => this.actions.show(ids[to]!));
      button.disabled = this.chat.isBusy || ids[to] === undefined;
      return button;
    };
    const place = `${here + 1} / ${ids.length}`;
    const group = el("div", { class: "versions", role: "group", "aria-label": "Versions" });
    group.append(
      arrow("back", "Previous version", here - 1),
      el("span", {}, place),
      arrow("forward", "Next version", here + 1),
    );
    return group;
  }

  private edit(index: number): void {
    const area = el("textarea", { "aria-label": "Your message", rows: "3", dir: "auto" });
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
      el("p", { class: "hint" }, "What was said is kept: the arrows lead back to it."),
      el("div", { class: "row" }, el("button", { type: "button", click: close }, "Cancel")),
    );
    form.lastElementChild!.append(el("button", { class: "primary" }, "Send"));
    this.body.replaceWith(form);
    area.focus();
  }
}
