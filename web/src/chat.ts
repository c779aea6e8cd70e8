// The conversation that is open: its messages, and the answer that is under way. Knows no DOM.

import { Answer } from "./answer.ts";
import { ApiError, ConnectionLost, type Api, type Conversation, type Item, type ResponseObject } from "./api.ts";
import type { Facts } from "./facts.ts";
import { browserClock, follow, type Clock, type Link, type Open } from "./follow.ts";
import { itemId, Message, said, textOf, toMessages } from "./message.ts";
import { delivered, requestBody, titleOf, type Settings } from "./request.ts";
import type { storage as Storage } from "./storage.ts";
import { ROOT, Tree } from "./tree.ts";

export interface Listener {
  onMessages(): void; // messages came or went
  onAnswer(): void; // the answer under way grew, began or ended
  onLink(link: Link): void;
  onConversation(conversation: Conversation): void; // new, or renamed
  onShared(conversation: string): void; // something of it changed on the server
}

/** A message was not answered. Its text is given back, to where it was written. */
export class Refused extends Error {
  constructor(
    readonly text: string | null,
    override readonly cause: unknown,
    readonly conversation = "", // the one that was to begin
  ) {
    super("refused");
  }
}

export class Chat {
  conversation: Conversation | null = null;
  messages: Message[] = []; // on the way through the tree that is on show
  private tree = new Tree();
  private current: AbortController | null = null; // of what is under way
  private link: Link = "live";
  private isAsking = false; // until there is an answer to follow
  private isStopping = false;
  private writing: Promise<unknown> = Promise.resolve(); // of metadata, one change behind the other

  constructor(
    private readonly api: Api,
    private readonly kept: Pick<typeof Storage, "pending" | "setPending">,
    private readonly listener: Listener,
    private readonly clock?: Clock,
  ) {}

  /** Whether something is under way: an answer, or a conversation that is fetched. */
  get isBusy(): boolean {
    return this.current !== null;
  }

  /** Whether an answer is asked for, or comes. */
  get isAnswering(): boolean {
    return this.isAsking || (this.isBusy && this.messages.at(-1)?.answer?.hasEnded === false);
  }

  /** Turn to an empty conversation. What is under way goes on without this page. */
  startNew(): void {
    this.leave();
    this.conversation = null;
    this.tree = new Tree();
    this.messages = [];
    this.listener.onMessages();
  }

  /** Turn to a conversation as the server has it, and follow an answer that is not done. `onOpen`
   * is told when it is there. Raises Refused for what was sent there last and has failed. */
  async open(id: string, onOpen: () => void): Promise<void> {
    this.startNew();
    await this.load(id, onOpen);
  }

  /** Show what others made of the open conversation meanwhile. */
  async refresh(): Promise<void> {
    const id = this.conversation?.id;
    if (id !== undefined && !this.isBusy) await this.load(id, () => {});
  }

  private async load(id: string, onOpen: () => void): Promise<void> {
    const here = this.occupy();
    try {
      await this.writing.catch(() => {}); // what was changed here is not older than what is fetched
      const conversation = await this.api.conversation(id);
      const response = await this.unfinished(conversation);
      const tree = new Tree();
      tree.add(await this.api.items(id));
      const started = response && !tree.has(itemId(response.id));
      const input = started ? await this.api.inputItems(response.id) : [];
      if (here.signal.aborted) return;
      this.conversation = conversation;
      this.tree = tree;
      const isUnderWay = started && response.status === "in_progress";
      const { leaf } = conversation.metadata;
      const end = isUnderWay ? response.conversation?.after : leaf && tree.has(leaf) ? leaf : undefined;
      const path = end === ROOT ? [] : tree.path(end);
      this.messages = this.along(path);
      const before = this.messages;
      if (isUnderWay) this.messages = this.along([...path, ...input]);
      this.listener.onMessages();
      this.listener.onConversation(conversation);
      onOpen();
      if (isUnderWay) {
        await this.run(here, new Answer(response.id), input.length ? textOf(input) : null, before);
        if (!here.signal.aborted) await this.settle();
      } else if (started && response.status === "failed") {
        throw new Refused(textOf(input), new Error(response.error?.message ?? "It failed."), id);
      }
    } finally {
      this.release(here);
    }
  }

  /** Send a message and follow its answer. Raises Refused. */
  async send(text: string, settings: Settings, model: string): Promise<void> {
    await this.sendAt(this.messages.length, text, settings, model);
  }

  /** Say something else in place of a message. What was said there is kept beside it. */
  async edit(message: Message, text: string, settings: Settings, model: string): Promise<void> {
    const index = this.messages.indexOf(message);
    const gone = "The message is no longer on show: another version is.";
    if (index < 0) throw new Refused(text, new Error(gone), this.conversation?.id);
    await this.sendAt(index, text, settings, model);
  }

  /** Ask for another answer. The last one is kept beside it. Raises Refused. */
  async regenerate(settings: Settings, model: string): Promise<void> {
    const isAnswered = this.messages.at(-1)?.role === "assistant";
    await this.sendAt(this.messages.length - (isAnswered ? 1 : 0), null, settings, model);
  }

  /** Show another version of a message. */
  async show(version: string): Promise<void> {
    this.messages = this.along(this.tree.path(this.tree.leafOf(version)));
    this.listener.onMessages();
    const { leaf: _, ...others } = this.conversation!.metadata;
    const leaf = this.messages.at(-1)!.id!;
    const isNewest = leaf === this.tree.items.at(-1)!.id;
    await this.write(this.conversation!, isNewest ? others : { ...others, leaf });
  }

  /** What was said in the place of a message: ids of items, oldest first. */
  versions({ ids: [first] }: Message): string[] {
    return first === undefined ? [] : this.tree.versions(first);
  }

  /** Put `text` (null: only an answer) in the place of message `index` and of what follows it. */
  private async sendAt(
    index: number,
    text: string | null,
    settings: Settings,
    model: string,
  ): Promise<void> {
    const here = this.occupy(true);
    const before = this.messages;
    const kept = before.slice(0, index);
    const message = text === null ? [] : [said(text)];
    let conversation = this.conversation;
    try {
      requestBody(settings, model, { id: "" }, text); // may refuse a setting, before anything is made
      if (kept.at(-1)?.id === null) await this.settle();
      here.signal.throwIfAborted();
      const after = kept.at(-1)?.id ?? (this.tree.items.length > 0 ? ROOT : undefined);
      this.messages = [...kept, ...message];
      this.listener.onMessages();
      conversation ??= await this.create(here, titleOf(text ?? ""));
      const { id } = conversation;
      const place = after === undefined ? { id } : { id, after };
      await this.begin(here, conversation, text, before, requestBody(settings, model, place, text));
      if (!here.signal.aborted) await this.settle();
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (!here.signal.aborted) {
        this.messages = before;
        this.listener.onMessages();
      }
      throw text === null ? error : new Refused(text, error, conversation?.id);
    } finally {
      this.release(here);
    }
  }

  /** Learn the ids that the server gave to what was said. */
  private async settle(): Promise<void> {
    const { tree, messages } = this;
    const { id } = this.conversation!;
    try {
      tree.add(await this.api.items(id, tree.items.at(-1)?.id));
    } catch (error) {
      if (error instanceof ConnectionLost) return; // it is tried again when an id is needed
      throw error;
    }
    const { id: known, answer } = messages.at(-1)!;
    const leaf = known ?? itemId(answer?.id ?? "");
    this.along(tree.path(tree.has(leaf) ? tree.leafOf(leaf) : undefined), messages);
    this.listener.onShared(id);
  }

  /** Messages for the items of a path: the same as before where they are the same. */
  private along(path: Item[], known = this.messages): Message[] {
    return toMessages(path).map((fresh, k) => {
      const message = known[k];
      if (!message?.isSame(fresh)) return fresh;
      message.take(fresh);
      return message;
    });
  }

  /** End the answer under way, at once or as soon as the server can be told. What it said stays. */
  async stop(): Promise<void> {
    if (!this.isAnswering) return;
    this.isStopping = true;
    const id = this.messages.at(-1)?.answer?.id ?? null;
    if (id !== null) await this.cancel(id);
    else if (this.link !== "live") this.current!.abort(); // the server may never hear of it
  }

  async rename(title: string): Promise<void> {
    const conversation = this.conversation!;
    const old = conversation.metadata;
    try {
      await this.write(conversation, { ...old, title });
    } catch (error) {
      conversation.metadata.title = old.title ?? "";
      throw error;
    } finally {
      this.listener.onConversation(conversation);
    }
  }

  /** Change what the server keeps beside the conversation. What follows builds on it at once. */
  private async write(conversation: Conversation, metadata: Conversation["metadata"]): Promise<void> {
    conversation.metadata = metadata;
    const change = () => this.api.updateConversation(conversation.id, conversation.metadata);
    await (this.writing = this.writing.then(change, change));
    this.listener.onShared(conversation.id);
  }

  /** What the server knows of an answer that this page did not hear. */
  async facts({ ids, answer }: Message): Promise<Facts> {
    const item = [...ids].reverse().find((id) => /^(msg|rs|fc)_/.test(id)) ?? "";
    const response = answer?.id ?? item.replace(/^[a-z]+_([^_]+).*/, "resp_$1");
    const { usage, seed } = await this.api.response(response);
    return { usage, seed: seed ?? null };
  }

  private async cancel(response: string): Promise<void> {
    try {
      await this.api.cancel(response);
    } catch (error) {
      if (error instanceof ApiError && !error.isTemporary) throw error;
      // The connection is lost: the next one begins with this.
    }
  }

  private async create(here: AbortController, title: string): Promise<Conversation> {
    const conversation = await this.api.createConversation({ title });
    if (!here.signal.aborted) this.conversation = conversation;
    this.listener.onConversation(conversation);
    return conversation;
  }

  private async begin(
    here: AbortController,
    conversation: Conversation,
    text: string | null,
    before: Message[],
    body: string,
  ): Promise<void> {
    const pending = { key: randomKey(), body, sentMs: Date.now() };
    this.kept.setPending(conversation.id, pending);
    const answer = new Answer(null, (this.clock ?? browserClock).now());
    if (!here.signal.aborted) {
      await this.run(here, answer, text, before, (signal) =>
        this.api.send("v1/responses", {
          method: "POST",
          body: delivered(body, { stream: true }),
          headers: { "Idempotency-Key": pending.key },
          signal,
        }),
      );
    }
    // The page turned to another conversation before the server had heard: it shall hear.
    if (here.signal.aborted && answer.id === null) await this.unfinished(conversation).catch(() => {});
  }

  /** Follow `answer` to its end. `begin` starts it where it has no id yet. Where it fails, the
   * messages are those `before` it, and its question is given back. */
  private async run(
    here: AbortController,
    answer: Answer,
    text: string | null,
    before: Message[],
    begin?: (signal: AbortSignal) => Promise<Response>,
  ): Promise<void> {
    const message = new Message("assistant", answer.parts, answer);
    let isNamed = false;
    this.messages = [...this.messages, message];
    this.isAsking = false;
    this.listener.onMessages();
    const open: Open = (answer, signal) =>
      answer.id === null && begin ? begin(signal) : this.api.send(resumePath(answer), { signal });
    const onAnswer = () => {
      if (begin && !isNamed) this.named(answer.id!);
      isNamed = true;
      this.listener.onAnswer();
    };
    const onLink = (link: Link) => {
      this.setLink(link);
      if (this.isStopping) void this.stop();
    };
    try {
      await follow(answer, open, { onAnswer, onLink }, here.signal, this.clock);
      if (answer.status === "failed") throw new Error(answer.error ?? "The answer failed.");
      message.isCut = answer.status !== "completed";
    } catch (error) {
      if (here.signal.aborted && !this.isStopping) return; // another conversation is open
      const { id } = this.conversation!;
      this.kept.setPending(id, null);
      this.messages = before;
      this.listener.onMessages();
      throw new Refused(text, error, id);
    } finally {
      if (this.current === here) this.setLink("live");
    }
  }

  /** The server has named the answer: whoever opens the conversation finds it from now on. */
  private named(response: string): void {
    const conversation = this.conversation!;
    const { leaf: _, ...others } = conversation.metadata; // the newest is on show
    this.write(conversation, { ...others, response }).then(
      () => this.kept.setPending(conversation.id, null),
      () => {}, // this browser still has what it sent, and finds it by that
    );
    if (this.isStopping) void this.cancel(response);
  }

  /** The conversation's last response, if there was one: by what this browser sent, or by name. */
  private async unfinished(conversation: Conversation): Promise<ResponseObject | null> {
    const pending = this.kept.pending(conversation.id);
    if (pending !== null) {
      const body = delivered(pending.body, { stream: false });
      const response = await this.api.begin(body, pending.key);
      conversation.metadata = { ...conversation.metadata, response: response.id };
      await this.api.updateConversation(conversation.id, conversation.metadata);
      this.kept.setPending(conversation.id, null);
    }
    const id = conversation.metadata.response;
    if (id === undefined) return null;
    try {
      return await this.api.response(id);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return null; // no longer kept
      throw error;
    }
  }

  private occupy(isAsking = false): AbortController {
    this.leave();
    this.current = new AbortController();
    this.isAsking = isAsking;
    this.listener.onAnswer();
    return this.current;
  }

  private release(here: AbortController): void {
    if (this.current !== here) return;
    this.current = null;
    this.isAsking = this.isStopping = false;
    this.listener.onAnswer();
  }

  private leave(): void {
    this.current?.abort();
    this.current = null;
    this.isAsking = this.isStopping = false;
    this.setLink("live");
  }

  private setLink(link: Link): void {
    this.link = link;
    this.listener.onLink(link);
  }
}

function resumePath({ id, last }: Answer): string {
  return `v1/responses/${id}?stream=true${last < 0 ? "" : `&starting_after=${last}`}`;
}

function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID wants https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
