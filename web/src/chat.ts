// The conversation that is open: its messages, and the answer that is under way. Knows no DOM.

import { Answer } from "./answer.ts";
import { ApiError, type Api, type Conversation, type Item, type ResponseObject } from "./api.ts";
import type { Facts } from "./facts.ts";
import { browserClock, follow, type Clock, type Link, type Open } from "./follow.ts";
import { delivered, requestBody, titleOf, type Settings } from "./request.ts";
import type { storage as Storage } from "./storage.ts";

export interface Message {
  id: string | null; // its item's, once the server has one
  role: "user" | "assistant";
  text: string;
  answer: Answer | null; // what this page heard of it, if it did
  isCut: boolean; // stopped, or at a limit
}

export interface Listener {
  onMessages(): void; // messages came or went
  onAnswer(): void; // the answer under way grew, began or ended
  onLink(link: Link): void;
  onConversation(conversation: Conversation): void; // new, or renamed
}

/** A message was not answered. Its text is given back. */
export class Refused extends Error {
  constructor(
    readonly text: string | null,
    override readonly cause: unknown,
  ) {
    super("refused");
  }
}

export class Chat {
  conversation: Conversation | null = null;
  messages: Message[] = [];
  private current: AbortController | null = null; // of what is under way
  private link: Link = "live";
  private isStopping = false;

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

  get isAnswering(): boolean {
    return this.isBusy && this.messages.at(-1)?.answer?.hasEnded === false;
  }

  /** Turn to an empty conversation. What is under way goes on without this page. */
  startNew(): void {
    this.leave();
    this.conversation = null;
    this.messages = [];
    this.listener.onMessages();
  }

  /** Turn to a conversation as the server has it, and follow an answer that is not done. `onOpen`
   * is told when it is there. Raises Refused for what was sent there last and has failed. */
  async open(id: string, onOpen: () => void): Promise<void> {
    this.startNew();
    const here = this.occupy();
    try {
      const conversation = await this.api.conversation(id);
      const response = await this.unfinished(conversation);
      const items = await this.api.items(id);
      const started = response && !items.some((item) => item.id === itemId(response.id));
      const input = started ? await this.api.inputItems(response.id) : [];
      if (here.signal.aborted) return;
      this.conversation = conversation;
      const isFailed = response?.status === "failed";
      this.messages = [...items, ...(isFailed ? [] : input)].filter(isShown).map(toMessage);
      this.listener.onMessages();
      onOpen();
      if (started && response.status === "in_progress") {
        await this.run(here, new Answer(response.id), input[0]?.content[0]?.text ?? null);
      } else if (started && isFailed) {
        throw new Refused(textOf(input), new Error(response.error?.message ?? "It failed."));
      }
    } finally {
      this.release(here);
    }
  }

  /** Send a message and follow its answer. Raises Refused. */
  async send(text: string, settings: Settings, model: string): Promise<void> {
    const here = this.occupy();
    const message = newMessage("user", text);
    this.messages.push(message);
    this.listener.onMessages();
    try {
      const id = this.conversation?.id ?? (await this.create(here, titleOf(text)));
      await this.begin(here, id, text, requestBody(settings, model, id, text));
    } catch (error) {
      if (error instanceof Refused) throw error;
      this.remove(message);
      throw new Refused(text, error);
    } finally {
      this.release(here);
    }
  }

  /** Take back the last answer and ask for another. Raises Refused. */
  async regenerate(settings: Settings, model: string): Promise<void> {
    const id = this.conversation!.id;
    const body = requestBody(settings, model, id, null);
    const here = this.occupy();
    try {
      const last = this.messages.at(-1)!;
      if (last.role === "assistant") await this.takeBack(here, this.messages.length - 1);
      if (!here.signal.aborted) await this.begin(here, id, null, body);
    } finally {
      this.release(here);
    }
  }

  /** Say something else in place of message `index`: it and all that follows are taken back. */
  async edit(index: number, text: string, settings: Settings, model: string): Promise<void> {
    requestBody(settings, model, "", text); // may refuse a setting, before anything is lost
    const here = this.occupy();
    try {
      await this.takeBack(here, index);
    } finally {
      this.release(here);
    }
    if (!here.signal.aborted) await this.send(text, settings, model);
  }

  /** End the answer under way, at once or as soon as the server can be told. What it said stays. */
  async stop(): Promise<void> {
    if (!this.isAnswering) return;
    this.isStopping = true;
    const { id } = this.messages.at(-1)!.answer!;
    if (id !== null) await this.cancel(id);
    else if (this.link !== "live") this.current!.abort(); // the server may never hear of it
  }

  async rename(title: string): Promise<void> {
    const { id, metadata } = this.conversation!;
    this.conversation = await this.api.updateConversation(id, { ...metadata, title });
    this.listener.onConversation(this.conversation);
  }

  /** What the server knows of an answer that this page did not hear. */
  async facts({ id }: Message): Promise<Facts> {
    const { usage, seed } = await this.api.response(id!.replace(/^msg_/, "resp_"));
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

  private async create(here: AbortController, title: string): Promise<string> {
    const conversation = await this.api.createConversation({ title });
    here.signal.throwIfAborted(); // nothing was sent, so nothing may look as if it was
    this.conversation = conversation;
    this.listener.onConversation(conversation);
    return conversation.id;
  }

  private async begin(
    here: AbortController,
    conversation: string,
    text: string | null,
    body: string,
  ): Promise<void> {
    const pending = { key: randomKey(), body, sentMs: Date.now() };
    this.kept.setPending(conversation, pending);
    await this.run(here, new Answer(null, (this.clock ?? browserClock).now()), text, (signal) =>
      this.api.send("v1/responses", {
        method: "POST",
        body: delivered(body, { stream: true }),
        headers: { "Idempotency-Key": pending.key },
        signal,
      }),
    );
  }

  /** Follow `answer` to its end. `begin` starts it where it has no id yet. */
  private async run(
    here: AbortController,
    answer: Answer,
    text: string | null,
    begin?: (signal: AbortSignal) => Promise<Response>,
  ): Promise<void> {
    const message = newMessage("assistant", "", answer);
    let isNamed = false;
    this.messages.push(message);
    this.listener.onMessages();
    const open: Open = (answer, signal) =>
      answer.id === null && begin ? begin(signal) : this.api.send(resumePath(answer), { signal });
    const onAnswer = () => {
      if (begin && !isNamed) this.named(answer.id!);
      isNamed = true;
      message.id = itemId(answer.id!);
      message.text = answer.text;
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
      this.kept.setPending(this.conversation!.id, null);
      this.remove(message);
      if (text !== null) this.messages.pop();
      this.listener.onMessages();
      throw new Refused(text, error);
    } finally {
      if (this.current === here) this.setLink("live");
    }
  }

  /** The server has named the answer: whoever opens the conversation finds it from now on. */
  private named(response: string): void {
    const conversation = this.conversation!;
    conversation.metadata = { ...conversation.metadata, response };
    this.api.updateConversation(conversation.id, conversation.metadata).then(
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

  /** Delete the messages from `index` on, the last first: what is left always hangs together. */
  private async takeBack(here: AbortController, index: number): Promise<void> {
    const { id } = this.conversation!;
    const items = (await this.api.items(id)).filter(isShown);
    while (items.length > index && !here.signal.aborted) {
      await this.api.deleteItem(id, items.pop()!.id);
    }
    if (here.signal.aborted) return;
    this.messages = this.messages.slice(0, index);
    this.listener.onMessages();
  }

  private occupy(): AbortController {
    this.leave();
    this.current = new AbortController();
    this.listener.onAnswer();
    return this.current;
  }

  private release(here: AbortController): void {
    if (this.current !== here) return;
    this.current = null;
    this.isStopping = false;
    this.listener.onAnswer();
  }

  private leave(): void {
    this.current?.abort();
    this.current = null;
    this.isStopping = false;
    this.setLink("live");
  }

  private setLink(link: Link): void {
    this.link = link;
    this.listener.onLink(link);
  }

  private remove(message: Message): void {
    this.messages = this.messages.filter((other) => other !== message);
    this.listener.onMessages();
  }
}

function resumePath({ id, last }: Answer): string {
  return `v1/responses/${id}?stream=true${last < 0 ? "" : `&starting_after=${last}`}`;
}

// A response's message is named after it.
function itemId(response: string): string {
  return response.replace(/^resp_/, "msg_");
}

function isShown(item: Item): boolean {
  return item.role === "user" || item.role === "assistant";
}

function toMessage(item: Item): Message {
  const message = newMessage(item.role === "user" ? "user" : "assistant", textOf([item]));
  return { ...message, id: item.id, isCut: item.status === "incomplete" };
}

function textOf(items: Item[]): string {
  return items.flatMap((item) => item.content.map((part) => part.text)).join("");
}

function newMessage(role: Message["role"], text: string, answer: Answer | null = null): Message {
  return { id: null, role, text, answer, isCut: false };
}

function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID wants https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
