// Joins the parts: what the person does, what the chat does, and what is shown.

import { Api, ApiError, ConnectionLost, type Conversation, type Model } from "./api.ts";
import { Chat, Refused } from "./chat.ts";
import { askKey, confirmDelete, SettingsDialog } from "./dialogs.ts";
import { byId } from "./dom.ts";
import type { Link } from "./follow.ts";
import { MessageList } from "./messages.ts";
import { SettingError, type Settings } from "./request.ts";
import { Sidebar } from "./sidebar.ts";
import { storage } from "./storage.ts";

const LINK_TEXTS: Record<Link, string> = {
  live: "",
  lost: "Connection lost, resuming…",
  loading: "The server is starting, the answer goes on as soon as it is ready…",
};
const HEALTH_MS = 1000;

const text = byId<HTMLTextAreaElement>("text");
const title = byId<HTMLInputElement>("title");
const api = new Api(document.baseURI.replace(/[#?].*$/, ""), storage.key(), askKey);
let model: Model | null = null; // none until the server takes requests
let isStarting = false;
let isSendDue = false; // asked for before that

const settings = new SettingsDialog(() => {
  storage.setKey(null, false);
  location.reload();
});
const chat = new Chat(api, storage, {
  onMessages: update,
  onAnswer: update,
  onLink: (link) => say(LINK_TEXTS[link]),
  onConversation(conversation) {
    sidebar.put(conversation);
    showOpen();
  },
  onShared: (conversation) => others.postMessage(conversation),
});
// Other pages of this browser show the same.
const others = new BroadcastChannel("llamastream");
others.addEventListener("message", ({ data }) => {
  sidebar.load().catch(() => {});
  if (data === chat.conversation?.id) void act(() => chat.refresh());
});

const list = new MessageList(
  byId("scroller"),
  byId("messages"),
  byId("to-end"),
  chat,
  {
    regenerate: (seed) => act(() => chat.regenerate(withSeed(seed), model!.id)),
    show: (version) => void chat.show(version).catch(fail),
    facts: (message) => chat.facts(message),
    edit: (index, words) => act(() => chat.edit(index, words, settings.settings, model!.id)),
  },
);
const sidebar = new Sidebar(api, remove, fail);

function withSeed(seed = settings.settings.seed): Settings {
  return { ...settings.settings, seed };
}

function update(): void {
  const { isAnswering, isBusy } = chat;
  byId("stop").hidden = !isAnswering;
  byId("send").hidden = isAnswering;
  byId<HTMLButtonElement>("send").disabled = isBusy || !text.value.trim();
  list.update();
}

/** Do something with the chat, and show what comes of it. */
async function act(action: () => Promise<void>): Promise<void> {
  byId("error").hidden = true;
  list.scrollToEnd();
  try {
    await action();
    speak();
  } catch (error) {
    if (error instanceof Refused) giveBack(error.text);
    fail(error instanceof Refused ? error.cause : error);
  }
}

function send(): void {
  const words = text.value;
  if (!words.trim() || chat.isBusy) return;
  if (model === null) {
    isSendDue = true;
    return void start();
  }
  const { id } = model;
  write("");
  void act(() => chat.send(words, settings.settings, id));
}

/** A text that was not answered returns to where it was typed, before what is there by now. */
function giveBack(words: string | null): void {
  if (words === null || text.value.includes(words)) return;
  write(text.value.trim() ? `${words}\n\n${text.value}` : words);
}

function fail(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (error instanceof SettingError || error instanceof ApiError) {
    if (error.param && settings.refuse(error.param, error.message)) return;
  }
  let message = error instanceof Error ? error.message : String(error);
  if (error instanceof ConnectionLost) message = "The server cannot be reached. Try again later.";
  if (error instanceof ApiError && error.retryAfterS !== null) {
    message += ` Try again in ${error.retryAfterS} s.`;
  }
  byId("error").textContent = message;
  byId("error").hidden = false;
  if (!(error instanceof ApiError || error instanceof ConnectionLost)) console.error(error);
}

function say(words: string): void {
  byId("status").textContent = words;
  byId("status").hidden = !words;
}

/** For screen readers: the whole answer, once. */
function speak(): void {
  const last = chat.messages.at(-1);
  if (last?.answer) byId("spoken").textContent = last.text;
}

function write(words: string): void {
  text.value = words;
  onInput();
}

function onInput(): void {
  storage.setDraft(text.value);
  grow();
  update();
}

function grow(): void {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function showOpen(): void {
  const { conversation } = chat;
  const name = conversation?.metadata.title ?? "";
  if (conversation && location.hash !== `#${conversation.id}`) {
    history.pushState(null, "", `#${conversation.id}`);
  }
  title.hidden = conversation === null;
  title.value = name;
  document.title = name ? `${name} · llamastream` : "llamastream";
  sidebar.mark(conversation?.id ?? null);
}

/** Show what the address names. */
async function openAddress(): Promise<void> {
  const id = location.hash.slice(1);
  if (id === (chat.conversation?.id ?? "")) return;
  byId("error").hidden = true;
  if (!id) {
    chat.startNew();
    showOpen();
    text.focus();
    return;
  }
  if (matchMedia("(hover: hover)").matches) text.focus(); // no keyboard that covers the screen
  await act(() => chat.open(id, showOpen));
  if (chat.conversation === null) showOpen(); // it could not be opened
}

async function remove(conversation: Conversation): Promise<void> {
  if (!(await confirmDelete(conversation.metadata.title || "Untitled"))) return;
  try {
    await api.deleteConversation(conversation.id);
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) return fail(error);
  }
  sidebar.remove(conversation.id);
  if (conversation.id === chat.conversation?.id) startNew();
}

function startNew(): void {
  history.pushState(null, "", location.pathname + location.search);
  void openAddress();
}

/** Return when the server takes requests, saying meanwhile why it does not. */
async function ready(): Promise<void> {
  for (;;) {
    const state = await api.health().catch(() => "unreachable");
    if (state === "ready") return say("");
    say(state === "loading" ? "The model is loading…" : `The server is ${state}, waiting…`);
    await new Promise((resolve) => setTimeout(resolve, HEALTH_MS));
  }
}

async function start(): Promise<void> {
  if (isStarting) return;
  isStarting = true;
  try {
    await ready();
    model = await api.model();
    byId("model").textContent = model.id;
    settings.show(model);
    await sidebar.load();
    await openAddress();
    if (isSendDue) send();
  } catch (error) {
    fail(error);
  } finally {
    isStarting = isSendDue = false;
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
text.addEventListener("input", onInput);
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) chat.stop().catch(fail);
});
byId("stop").addEventListener("click", () => chat.stop().catch(fail));
byId("new").addEventListener("click", startNew);
title.addEventListener("change", () => {
  const name = title.value.trim();
  if (name) chat.rename(name).catch(fail);
});
title.addEventListener("keydown", (event) => {
  if (event.key === "Enter") title.blur();
});
for (const idea of byId("ideas").querySelectorAll("button")) {
  idea.addEventListener("click", () => {
    write(idea.textContent!);
    send();
  });
}
addEventListener("resize", grow);
addEventListener("hashchange", () => void openAddress());
document.addEventListener("visibilitychange", () => {
  // Meanwhile another browser may have begun something.
  if (document.hidden || model === null) return;
  sidebar.load().catch(() => {});
  chat.refresh().catch(() => {});
});
write(storage.draft());
void start();
