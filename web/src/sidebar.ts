// The list of conversations.

import type { Api, Conversation } from "./api.ts";
import { byId, el, iconButton } from "./dom.ts";

export class Sidebar {
  private conversations: Conversation[] = [];
  private openId: string | null = null;
  private isLoading = false;
  private readonly gone = new Set<string>(); // deleted here, if the server has heard of it or not
  private readonly list = byId("conversations");
  private readonly more = byId("more");

  constructor(
    private readonly api: Api,
    private readonly onDelete: (conversation: Conversation) => void,
    onError: (error: unknown) => void,
  ) {
    this.more.addEventListener("click", () => this.loadMore().catch(onError));
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry?.isIntersecting || this.isLoading) return;
      // What came into view meanwhile is told anew: else the end of a list could stay one.
      const again = () => {
        seen.unobserve(this.more);
        seen.observe(this.more);
      };
      this.loadMore().then(again, onError);
    });
    seen.observe(this.more);
    const show = (isOpen: boolean) => {
      document.body.classList.toggle("menu-open", isOpen);
      byId("menu").setAttribute("aria-expanded", String(isOpen));
      byId(isOpen ? "close-menu" : "menu").focus();
    };
    byId("menu").addEventListener("click", () => show(true));
    for (const id of ["close-menu", "shade"]) byId(id).addEventListener("click", () => show(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
      event.stopPropagation(); // an answer goes on
      show(false);
    });
  }

  /** Fetch the newest again: another browser may have added some. */
  async load(): Promise<void> {
    const page = await this.api.conversations();
    const last = page.data.at(-1)?.id;
    const place = this.conversations.findIndex(({ id }) => id === last);
    const older = place < 0 ? [] : this.conversations.slice(place + 1);
    this.conversations = [...this.known(page.data), ...older];
    if (older.length === 0) this.more.hidden = !page.has_more;
    this.draw();
  }

  /** Show a conversation that is new or has another title. */
  put(conversation: Conversation): void {
    if (this.gone.has(conversation.id)) return;
    const index = this.conversations.findIndex(({ id }) => id === conversation.id);
    const newest = this.conversations[0]?.created_at ?? 0;
    if (index >= 0) this.conversations[index] = conversation;
    else if (conversation.created_at >= newest) this.conversations.unshift(conversation);
    else return; // further down than what was fetched
    this.draw();
  }

  /** Take a conversation from the list, and give where it stood. */
  remove(id: string): number {
    const index = this.conversations.findIndex((conversation) => conversation.id === id);
    if (index >= 0) this.conversations.splice(index, 1);
    this.gone.add(id);
    this.draw();
    return index;
  }

  restore(conversation: Conversation, index: number): void {
    this.gone.delete(conversation.id);
    this.conversations.splice(Math.max(0, index), 0, conversation);
    this.draw();
  }

  mark(openId: string | null): void {
    this.openId = openId;
    document.body.classList.remove("menu-open");
    this.draw();
  }

  private async loadMore(): Promise<void> {
    this.isLoading = true;
    try {
      const page = await this.api.conversations(this.conversations.at(-1)?.id);
      const older = this.known(page.data);
      this.conversations.push(...older);
      this.more.hidden = !page.has_more;
      this.draw(older.length);
    } finally {
      this.isLoading = false;
    }
  }

  private known(fetched: Conversation[]): Conversation[] {
    return fetched.filter(({ id }) => !this.gone.has(id));
  }

  /** Draw all, or add the last `numNew`. */
  private draw(numNew = this.conversations.length): void {
    const now = new Date();
    const first = this.conversations.length - numNew;
    if (first === 0) this.list.replaceChildren();
    let group = first > 0 ? groupOf(this.conversations[first - 1]!, now) : "";
    for (const conversation of this.conversations.slice(first)) {
      const next = groupOf(conversation, now);
      if (next !== group) this.list.append(el("li", { class: "group" }, el("h2", {}, next)));
      group = next;
      this.list.append(this.entry(conversation));
    }
  }

  private entry(conversation: Conversation): HTMLElement {
    const title = titleOfConversation(conversation);
    const isOpen = conversation.id === this.openId;
    const current = isOpen ? "page" : null;
    const props = { href: `#${conversation.id}`, title, dir: "auto", "aria-current": current };
    // The second click of a double one would meet the next conversation.
    const remove = (_: unknown, { detail }: MouseEvent) => detail < 2 && this.onDelete(conversation);
    return el(
      "li",
      { class: isOpen ? "open" : "" },
      el("a", props, title),
      iconButton("delete", `Delete “${title}”`, remove),
    );
  }
}

export function titleOfConversation({ metadata }: Conversation): string {
  return metadata.title || "Untitled";
}

const DAY_MS = 24 * 3600 * 1000;

/** When it began, as one speaks of it. */
function groupOf({ created_at }: Conversation, now: Date): string {
  const began = new Date(created_at * 1000);
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const days = Math.ceil((midnight - began.getTime()) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Last 7 days";
  if (days <= 30) return "Last 30 days";
  return began.toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
