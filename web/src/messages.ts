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
  edit(message: Message, text: string): void;
  giveBack(text: string, conversation: string): void;
}

const MAX_AT_ONCE = 30_000; // characters of a frame
const NEAR_PX = 40; // from the end: a reader who is that close wants to stay there

/** Keeps to the end while the reader is there. */
export class MessageList {
  private readonly views = new Map<Message, MessageView>();
  private isAtEnd = true;
  private lastTop = 0;
  private isDue = false;
  private drawn: Message[] = [];
  private state = "";
  private isAll = true;

  constructor(
    private readonly scroller: HTMLElement,
    private readonly list: HTMLElement,
    private readonly toEnd: HTMLElement,
    private readonly chat: Chat,
    private readonly actions: Actions,
  ) {
    scroller.addEventListener("scroll", () => this.onScroll(), { passive: true });
    toEnd.addEventListener("click", () => this.scrollToEnd());
    const sizes = new ResizeObserver(() => this.keepToEnd());
    sizes.observe(scroller);
    sizes.observe(list); // formulas and colours come late
    list.addEventListener("click", ({ target }) => {
      if ((target as Element).closest(".step > summary")) this.isAtEnd = false; // to read it
    });
    const onToggle = () => (this.isAtEnd = this.distance() < NEAR_PX);
    list.addEventListener("toggle", onToggle, { capture: true });
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
    const { messages, isBusy, isAnswering } = this.chat;
    const state = `${isBusy} ${isAnswering}`;
    const isGrown = messages === this.drawn && state === this.state && this.isAll; // nothing else
    this.isAll = isGrown ? (this.views.get(messages.at(-1)!)?.update(true) ?? true) : this.drawAll();
    this.drawn = messages;
    this.state = state;
    if (!this.isAll) this.update(); // the rest of a long text with the next frame
    document.body.classList.toggle("empty", messages.length === 0);
    this.keepToEnd();
  }

  private drawAll(): boolean {
    const { messages } = this.chat;
    const shown = new Set(messages);
    for (const [message, view] of this.views) {
      if (shown.has(message)) continue;
      view.remove();
      this.views.delete(message);
    }
    messages.forEach((message, index) => {
      const view = this.views.get(message) ?? new MessageView(message, this.chat, this.actions);
      this.views.set(message, view);
      const place = this.list.children[index] ?? null;
      if (place !== view.element) this.list.insertBefore(view.element, place);
    });
    // The newest first: that is where the reader is.
    let budget = MAX_AT_ONCE;
    let isAll = true;
    for (let k = messages.length - 1; k >= 0; k--) {
      const view = this.views.get(messages[k]!)!;
      const isNew = !view.isWhole;
      if (!isNew || budget > 0) isAll = view.update(k === messages.length - 1) && isAll;
      else isAll = false; // with the next frame
      if (isNew) budget -= messages[k]!.text.length;
    }
    return isAll;
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
  isWhole = false;
  private shown: string | null = null;
  private state = "";
  private unsent = () => {}; // gives back what is written to replace this

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
  update(isLast: boolean): boolean {
    const isLive = isLast && this.chat.isAnswering && this.message.answer?.hasEnded === false;
    const isAll = (this.isWhole = this.show(isLive));
    const versions = this.chat.versions(this.message);
    const state = [isLast, isLive, this.chat.isAnswering, ...versions].join();
    if (state === this.state) return isAll;
    this.state = state;
    this.element.classList.toggle("live", isLive);
    this.element.setAttribute("aria-busy", String(isLive));
    this.footer.replaceChildren(...(isLive ? [] : this.tools(isLast)));
    return isAll;
  }

  remove(): void {
    this.unsent();
    this.element.remove();
  }

  private show(isLive: boolean): boolean {
    if (this.parts) return this.parts.update(isLive);
    const { text } = this.message;
    if (text !== this.shown) this.body.textContent = this.shown = text;
    return true;
  }

  private tools(isLast: boolean): Node[] {
    const { regenerate, facts } = this.actions;
    const isUser = this.message.role === "user";
    const again = isLast && !this.chat.isAnswering ? regenerate : null;
    const tools: Node[] = [copyButton(() => this.message.text)];
    if (isUser) tools.push(iconButton("edit", "Edit", (button) => this.edit(button)));
    const label = isUser ? "Answer this" : "Answer again";
    if (again) tools.push(iconButton("again", label, () => again()));
    const row = el("div", { class: "tools" }, ...tools);
    const versions = this.versions();
    if (versions) row.prepend(versions);
    return isUser ? [row] : [row, factsOf(this.message, () => facts(this.message), again)];
  }

  /** Arrows to what else was said here. */
  private versions(): HTMLElement | null {
    const ids = this.chat.versions(this.message);
    if (ids.length < 2) return null;
    const here = ids.indexOf(this.message.ids[0]!);
    const arrow = (name: string, label: string, to: number) => {
      const button = iconButton(name, label, () => this.actions.show(ids[to]!));
      button.disabled = this.chat.isAnswering || ids[to] === undefined;
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

  private edit(button: HTMLElement): void {
    if (!this.body.isConnected) return; // it is being edited
    const area = el("textarea", { "aria-label": "Your message", rows: "3", dir: "auto" });
    area.value = this.message.text;
    const place = this.chat.conversation!.id;
    this.unsent = () => {
      if (area.value !== this.message.text) this.actions.giveBack(area.value, place);
    };
    const close = () => {
      this.unsent = () => {};
      form.replaceWith(this.body);
      button.focus();
    };
    const form = el(
      "form",
      {
        class: "edit",
        submit: (event) => {
          event.preventDefault();
          if (!area.value.trim()) return;
          close();
          this.actions.edit(this.message, area.value);
        },
        keydown: (event) => {
          const { key, shiftKey, isComposing } = event as KeyboardEvent;
          if (key === "Escape") {
            event.stopPropagation(); // an answer goes on
            close();
          } else if (key === "Enter" && !shiftKey && !isComposing && event.target === area) {
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
