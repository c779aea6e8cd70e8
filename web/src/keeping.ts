// Conversations that are saved, taken in, and deleted.

import { ApiError, type Api, type Conversation } from "./api.ts";
import { byId } from "./dom.ts";
import { save } from "./files.ts";
import { titleOfConversation, type Sidebar } from "./sidebar.ts";
import { fromJson, toJson, toMarkdown } from "./transfer.ts";
import { Undo } from "./undo.ts";

export interface Around {
  open(): Conversation | null; // the one on show
  leave(): void; // turn to an empty one
  fail(error: unknown): void;
  say(words: string): void;
}

export class Keeping {
  private readonly undo = new Undo();

  constructor(
    private readonly api: Api,
    private readonly sidebar: Sidebar,
    private readonly around: Around,
  ) {
    const { fail } = around;
    const dialog = byId<HTMLDialogElement>("export-dialog");
    byId("export").addEventListener("click", () => {
      dialog.returnValue = "";
      dialog.showModal();
    });
    dialog.addEventListener("close", () => this.saveOpen(dialog.returnValue).catch(fail));
    byId("export-all").addEventListener("click", () => this.saveAll().catch(fail));
    const file = byId<HTMLInputElement>("import-file");
    byId("import").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const given = file.files?.[0];
      if (given) this.takeIn(given).catch(fail);
      file.value = "";
    });
  }

  /** Take a conversation from the list, and from the server unless it is had back. */
  remove(conversation: Conversation): void {
    const index = this.sidebar.remove(conversation.id);
    if (conversation.id === this.around.open()?.id) this.around.leave();
    const forget = () => {
      this.api.deleteConversation(conversation.id).catch((error: unknown) => {
        if (error instanceof ApiError && error.status === 404) return;
        this.sidebar.restore(conversation, index);
        this.around.fail(error);
      });
    };
    this.undo.offer(`Deleted “${titleOfConversation(conversation)}”`, forget, () => {
      this.sidebar.restore(conversation, index);
      location.hash = conversation.id;
    });
  }

  private async saveOpen(form: string): Promise<void> {
    const conversation = this.around.open();
    if (conversation === null || (form !== "json" && form !== "markdown")) return;
    const name = titleOfConversation(conversation).replace(/[^\p{L}\p{N} _-]+/gu, "").trim();
    if (form === "json") {
      save(`${name}.json`, "application/json", await toJson(this.api, [conversation]));
    } else save(`${name}.md`, "text/markdown", await toMarkdown(this.api, conversation));
  }

  private async saveAll(): Promise<void> {
    this.around.say("Saving all conversations…");
    try {
      const all: Conversation[] = [];
      for (let page = await this.api.conversations(); ; ) {
        all.push(...page.data);
        if (!page.has_more) break;
        page = await this.api.conversations(page.last_id!);
      }
      save("conversations.json", "application/json", await toJson(this.api, all.reverse()));
    } finally {
      this.around.say("");
    }
  }

  private async takeIn(file: File): Promise<void> {
    this.around.say("Importing…");
    try {
      await fromJson(this.api, await file.text());
      await this.sidebar.load();
    } finally {
      this.around.say("");
    }
  }
}
