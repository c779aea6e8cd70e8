// The list of conversations.

import type { Api, Conversation } from "./api.ts";
import { byId, el, iconButton } from "./dom.ts";

export class Sidebar {
  private conversations: Conversation[] = [];
  private openId: string | null = null;
  private readonly list = byId("conversations");
  private readonly more = byId("more");

  constructor(
    private readonly api: Api,
    private readonly onDelete: (conversation: Conversation) => void,
    onError: (error: unknown) => void,
  ) {
    this.more.addEventListener("click", () => this.loadMore().catch(onError));
    const show = (isOpen: boolean) => {
      document.body.classList.toggle("menu-open", isOpen);
      byId("menu").setAttribute("aria-expanded", String(isOpen));
      byId(isOpen ? "close-menu" : "menu").focus();
    };
    byId("menu").addEventListener("click", () => show(true));
    for (const id of ["close-menu", "shade"]) byId(id).addEventListener("click", () => show(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.body.classList.contains("menu-open")) show(false);
    });
  }

  /** Fetch the newest again: another browser may have added some. */
  async load(): Promise<void> {
    const page = await this.api.conversations();
    this.conversations = page.data;
    this.more.hidden = !page.has_more;
    this.draw();
  }

  /** Show a conversation that is new or has another title. */
  put(conversation: Conversation): void {
    const index = this.conversations.findIndex(({ id }) => id === conversation.id);
    if (index < 0) this.conversations.unshift(conversation);
    else this.conversations[index] = conversation;
    this.draw();
  }

  remove(id: string): void {
    this.conversations = this.conversations.filter((conversation) => conversation.id !== id);
    this.draw();
  }

  mark(openId: string | null): void {
    this.openId = openId;
    document.body.classList.remove("menu-open");
    this.draw();
  }

  private async loadMore(): Promise<void> {
    const page = await this.api.conversations(this.conversations.at(-1)?.id);
    this.conversations.push(...page.data);
    this.more.hidden = !page.has_more;
    this.draw();
  }

  private draw(): void {
    this.list.replaceChildren(
      ...this.conversations.map((conversation) => {
        const title = conversation.metadata.title || "Untitled";
        const isOpen = conversation.id === this.openId;
        const current = isOpen ? "page" : null;
        const props = { href: `#${conversation.id}`, title, "aria-current": current };
        const remove = () => this.onDelete(conversation);
        return el(
          "li",
          { class: isOpen ? "open" : "" },
          el("a", props, title),
          iconButton("delete", `Delete “${title}”`, remove),
        );
      }),
    );
  }
}
