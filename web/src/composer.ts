// Where a message is written: its draft, kept for each conversation, and the files that go with it.

import type { Api, Model } from "./api.ts";
import { byId, el, iconButton } from "./dom.ts";
import { quoted, readText, type TextFile } from "./files.ts";
import { storage } from "./storage.ts";

export class Composer {
  readonly text = byId<HTMLTextAreaElement>("text");
  private readonly list = byId("files");
  private readonly filesOf = new Map<string, TextFile[]>(); // by conversation
  private numReading = 0;
  private place = ""; // the conversation whose draft this is
  private isOpen = false;
  private model: Model | null = null;

  constructor(
    private readonly api: Api,
    private readonly onChange: () => void,
    private readonly onError: (error: unknown) => void,
  ) {
    this.text.addEventListener("input", () => this.changed());
    addEventListener("resize", () => this.grow());
    const form = byId("composer");
    form.addEventListener("paste", (event) => this.take(event, event.clipboardData));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => this.take(event, event.dataTransfer));
    byId<HTMLInputElement>("file").addEventListener("change", (event) => {
      const input = event.target as HTMLInputElement;
      void this.add([...input.files!]).then(() => (input.value = ""));
    });
    byId("attach").addEventListener("click", () => byId("file").click());
  }

  /** Whether files are on their way into the message. */
  get isReading(): boolean {
    return this.numReading > 0;
  }

  private get files(): TextFile[] {
    return this.filesOf.get(this.place) ?? [];
  }

  get isEmpty(): boolean {
    return !this.text.value.trim() && this.files.length === 0;
  }

  /** What is to be sent: the words, and each file as a quotation. */
  get message(): string {
    return [this.text.value, ...this.files.map(quoted)].filter((part) => part.trim()).join("\n\n");
  }

  /** The server takes requests, for this model. */
  async ready(model: Model): Promise<void> {
    this.model = model;
    await this.count([...this.filesOf.values()].flat());
  }

  write(words: string): void {
    this.text.value = words;
    this.changed();
  }

  clear(): void {
    this.filesOf.delete(this.place);
    this.drawFiles();
    this.write("");
  }

  /** A text that was not answered returns to its conversation, before what is written there by now. */
  giveBack(words: string | null, conversation: string): void {
    const isHere = conversation === this.place;
    const draft = isHere ? this.text.value : storage.draft(conversation);
    if (words === null || draft.includes(words)) return;
    const both = draft.trim() ? `${words}\n\n${draft}` : words;
    if (isHere) this.write(both);
    else storage.setDraft(conversation, both);
  }

  /** Turn to the draft of another conversation. */
  open(conversation: string): void {
    if (conversation === this.place && this.isOpen) return;
    this.isOpen = true;
    this.place = conversation;
    this.text.value = storage.draft(conversation);
    this.grow();
    this.drawFiles();
  }

  /** The draft so far is that of a conversation that has just begun. */
  moved(conversation: string): void {
    if (conversation === this.place) return;
    storage.setDraft(this.place, "");
    this.filesOf.set(conversation, this.files);
    this.filesOf.delete(this.place);
    this.place = conversation;
    storage.setDraft(conversation, this.text.value);
  }

  private changed(): void {
    storage.setDraft(this.place, this.text.value);
    this.grow();
    this.onChange();
  }

  private grow(): void {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
  }

  private take(event: Event, data: DataTransfer | null): void {
    const files = [...(data?.files ?? [])];
    if (files.length === 0) return; // text is pasted as it is
    event.preventDefault();
    void this.add(files);
  }

  private async add(given: File[]): Promise<void> {
    const { place } = this;
    this.numReading++;
    const read = await Promise.allSettled(given.map(readText));
    this.numReading--;
    const files = read.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    this.filesOf.set(place, [...(this.filesOf.get(place) ?? []), ...files]);
    for (const one of read) if (one.status === "rejected") this.onError(one.reason);
    this.drawFiles();
    await this.count(files);
  }

  private async count(files: TextFile[]): Promise<void> {
    for (const file of files) {
      if (!this.model) return; // they are counted when it is known
      try {
        file.numTokens = await this.api.numTokens(this.model.id, quoted(file));
      } catch (error) {
        this.onError(error);
      }
      this.drawFiles();
    }
  }

  private drawFiles(): void {
    this.list.hidden = this.files.length === 0;
    this.list.replaceChildren(
      ...this.files.map((file) => {
        const size = file.numTokens === null ? "…" : `${file.numTokens} tokens`;
        const remove = iconButton("close", `Remove ${file.name}`, () => {
          this.filesOf.set(this.place, this.files.filter((other) => other !== file));
          this.drawFiles();
        });
        return el("li", {}, el("span", {}, file.name), el("span", { class: "hint" }, size), remove);
      }),
    );
    this.onChange();
  }
}
