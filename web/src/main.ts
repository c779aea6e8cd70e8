// Joins the parts: what the person does, what the chat does, and what is shown.

import { Api, ApiError, ConnectionLost, type Model } from "./api.ts";
import { Chat, Refused } from "./chat.ts";
import { Composer } from "./composer.ts";
import { ContextGauge, type WayOut } from "./context.ts";
import { askKey, SettingsDialog } from "./dialogs.ts";
import { byId, el } from "./dom.ts";
import { FileError } from "./files.ts";
import type { Link } from "./follow.ts";
import { Keeping } from "./keeping.ts";
import { MessageList } from "./messages.ts";
import { SettingError, titleOf, type Settings } from "./request.ts";
import { Search } from "./search.ts";
import { listen } from "./shortcuts.ts";
import { Sidebar } from "./sidebar.ts";
import { storage } from "./storage.ts";
import { Wishes } from "./wishes.ts";

const LINK_TEXTS: Record<Link, string> = {
  live: "",
  lost: "Connection lost, resuming…",
  loading: "The server is starting, the answer goes on as soon as it is ready…",
};
const HEALTH_MS = 1000;
const QUEUE_MS = 1000;

const title = byId<HTMLInputElement>("title");
const api = new Api(document.baseURI.replace(/[#?].*$/, ""), storage.key(), askKey);
let model: Model | null = null; // none until the server takes requests
let place: string | null = ""; // the conversation that the address named last
let isStarting = false;

const settings = new SettingsDialog(api, () => {
  storage.setKey(null, false);
  location.reload();
});
const chat = new Chat(api, storage, {
  onMessages: update,
  onAnswer: update,
  onLink: (link) => say(LINK_TEXTS[link]),
  onConversation(conversation) {
    sidebar.put(conversation);
    if (conversation.id !== chat.conversation?.id) return;
    composer.moved(conversation.id);
    showOpen();
  },
  onShared: (conversation) => others.postMessage(conversation),
});
// Other pages of this browser show the same.
const others = new BroadcastChannel("llamastream");
others.addEventListener("message", ({ data }) => {
  sidebar.load().catch(() => {});
  if (data === chat.conversation?.id) void refresh();
});

const composer: Composer = new Composer(api, update, fail);
const wishes = new Wishes(
  () => model !== null && !chat.isBusy && !composer.isReading,
  (text) => composer.giveBack(text, chat.conversation?.id ?? ""),
);
const gauge = new ContextGauge((way) => void act(() => makeRoom(way)));
const list = new MessageList(
  byId("scroller"),
  byId("messages"),
  byId("to-end"),
  chat,
  {
    regenerate(seed) {
      if (chat.isAnswering) return; // a click too many
      wishes.ask("again", () => void act(() => chat.regenerate(withSeed(seed), model!.id)));
    },
    show: (version) => wishes.ask("show", () => void chat.show(version).catch(fail)),
    facts: (message) => chat.facts(message),
    edit(message, words) {
      const edit = () => chat.edit(message, words, settings.settings, model!.id);
      wishes.ask("edit", () => void act(edit), words);
      update();
    },
    giveBack: (words, conversation) => composer.giveBack(words, conversation),
  },
);
const sidebar = new Sidebar(api, (conversation) => keeping.remove(conversation), fail);
const search = new Search(api, fail);
const keeping = new Keeping(api, sidebar, {
  open: () => chat.conversation,
  leave: startNew,
  fail,
  say,
});

function withSeed(seed = settings.settings.seed): Settings {
  return { ...settings.settings, seed };
}

function update(): void {
  const { isAnswering } = chat;
  byId("stop").hidden = !isAnswering;
  byId("send").hidden = isAnswering;
  byId<HTMLButtonElement>("send").disabled = composer.isEmpty;
  byId("due").hidden = wishes.isEmpty || !isAnswering;
  list.update();
  watchQueue();
  // Behind what a failure has to say about them.
  if (!wishes.isEmpty && !chat.isBusy) setTimeout(() => wishes.next());
}

/** Do something with the chat, and show what comes of it. */
async function act(action: () => Promise<void>): Promise<void> {
  byId("error").hidden = true;
  list.scrollToEnd();
  try {
    await action();
    speak();
    void measure();
  } catch (error) {
    wishes.clear();
    if (error instanceof Refused) composer.giveBack(error.text, error.conversation);
    fail(error instanceof Refused ? error.cause : error);
  }
}

/** Show what another page made of the conversation, without moving this reader. */
async function refresh(): Promise<void> {
  await chat.refresh().then(measure, (error: unknown) => {
    if (error instanceof Refused) fail(error.cause);
  });
}

/** Show what the conversation takes of the context. */
async function measure(): Promise<void> {
  const last = chat.messages.at(-1);
  let usage = last?.answer?.usage ?? null;
  if (usage === null && last?.role === "assistant" && last.id !== null && !chat.isBusy) {
    usage = await chat.facts(last).then(
      (facts) => facts.usage,
      () => null, // the server no longer keeps it
    );
  }
  if (last === chat.messages.at(-1)) gauge.show(usage, model?.max_model_len ?? null);
}

/** What a person chose for a conversation that is too long. */
async function makeRoom(way: WayOut): Promise<void> {
  if (way === "shorten") return void settings.openAt("instructions", null);
  if (way === "drop") {
    settings.setDropOldest();
    return send();
  }
  say("Writing a summary…");
  const here = place;
  try {
    const said = chat.messages
      .filter(({ text }) => text)
      .map(({ role, text }) => ({ role, content: text }));
    const request = "Summarise our conversation so far in a few sentences, with all names and facts.";
    const messages = [...said, { role: "user", content: request }];
    const summary = await api.reply(model!.id, messages, 300);
    const title = titleOf(`${chat.conversation?.metadata.title ?? ""} (continued)`);
    const { id } = await api.createConversation({ title });
    await api.addItems(id, [
      { role: "user", content: "What did we speak of before?" },
      { role: "assistant", content: summary },
    ]);
    await sidebar.load();
    if (place !== here || chat.isBusy) return; // the person went on meanwhile
    const unsent = composer.text.value;
    composer.write("");
    storage.setDraft(id, unsent);
    location.hash = id;
  } finally {
    say("");
  }
}

let queue: number | null = null; // the timer that looks how long it is

/** Say how many come before, while an answer has not begun. */
function watchQueue(): void {
  const isWaiting = chat.isAnswering && !chat.messages.at(-1)?.answer?.hasBegun;
  if (isWaiting && queue === null) {
    queue = setInterval(async () => {
      const { waiting } = await api.health().catch(() => ({ waiting: 0 }));
      const requests = waiting === 1 ? "1 request is" : `${waiting} requests are`;
      if (queue !== null && waiting > 0) say(`Waiting: ${requests} in the queue…`);
    }, QUEUE_MS);
  } else if (!isWaiting && queue !== null) {
    clearInterval(queue);
    queue = null;
    if (byId("status").textContent!.startsWith("Waiting:")) say("");
  }
}

/** Send what is written, as soon as it can be. Until then it stays where it is. */
function send(): void {
  if (composer.isEmpty) return;
  if (model === null) void start();
  wishes.ask("send", () => {
    const words = composer.message;
    composer.clear();
    void act(() => chat.send(words, settings.settings, model!.id));
  });
  update();
}

function fail(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  if (error instanceof ApiError && error.code === "context_length_exceeded") {
    if (chat.messages.length > 0) return gauge.open(error.message);
  }
  if (error instanceof SettingError || error instanceof ApiError) {
    if (error.param && settings.openAt(error.param, error.message)) return;
  }
  const unreachable = navigator.onLine
    ? "The server cannot be reached. Nothing is lost: send it again in a moment."
    : "You are offline. Nothing is lost: send it again when the network is back.";
  let message = error instanceof Error ? error.message : String(error);
  if (error instanceof ConnectionLost) message = unreachable;
  if (error instanceof ApiError && error.retryAfterS !== null) {
    message += ` Try again in ${error.retryAfterS} s.`;
  }
  byId("error").textContent = message;
  byId("error").hidden = false;
  const isTheirs = [ApiError, ConnectionLost, FileError].some((kind) => error instanceof kind);
  if (!isTheirs) console.error(error);
}

function say(words: string): void {
  byId("status").textContent = words;
  byId("status").hidden = !words;
}

/** For screen readers: the whole answer, once. */
function speak(): void {
  const last = chat.messages.at(-1);
  if (last?.answer?.hasEnded) byId("spoken").textContent = last.text;
}

function showOpen(): void {
  const { conversation } = chat;
  const name = conversation?.metadata.title ?? "";
  if (conversation && location.hash !== `#${conversation.id}`) {
    history.pushState(null, "", `#${conversation.id}`);
    place = conversation.id;
  }
  title.hidden = byId("export").hidden = conversation === null;
  if (document.activeElement !== title) showTitle(); // else it is being written
  document.title = name ? `${name} · llamastream` : "llamastream";
  sidebar.mark(conversation?.id ?? null);
}

/** Show what the address names by now. */
function turn(): void {
  wishes.clear();
  void openAddress();
}

function showTitle(): void {
  title.value = chat.conversation?.metadata.title ?? "";
}

async function openAddress(): Promise<void> {
  const id = location.hash.slice(1);
  if (id === place) return;
  place = id;
  byId("error").hidden = true;
  if (!id) {
    chat.startNew();
    composer.open("");
    showOpen();
    gauge.show(null, null);
    composer.text.focus();
    return;
  }
  composer.open(id);
  if (matchMedia("(hover: hover)").matches) composer.text.focus(); // no keyboard that covers the screen
  await act(() => chat.open(id, showOpen));
  if (chat.conversation !== null || place !== id) return;
  showOpen(); // it could not be opened
  place = null;
}

async function showModel(): Promise<void> {
  const [health, version] = await Promise.all([api.health(), api.version()]);
  const facts = {
    ...modelFacts(model!),
    Server: `llamastream ${version}, ${health.status}`,
    "Answers being written": String(health.running),
    "Waiting for their turn": String(health.waiting),
  };
  const rows = Object.entries(facts).map(([name, fact]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, fact)),
  );
  byId("model-facts").replaceChildren(...rows);
  byId<HTMLDialogElement>("model-dialog").showModal();
}

function modelFacts({ id, max_model_len: limit, sampling, details }: Model): Record<string, string> {
  const { precision, parameters, file_precision, file_format, file_bytes, chat_template } = details;
  const facts: Record<string, string | false | undefined> = {
    Model: id,
    Parameters: parameters?.toLocaleString(),
    Precision: precision,
    File: file_bytes !== undefined && `${file_format}, ${file_precision}, ${Math.round(file_bytes / 1e6)} MB`,
    Context: limit ? `${limit} tokens` : "not known yet",
    "Chat template": chat_template,
    "Unless settings say otherwise": Object.entries(sampling)
      .map(([name, value]) => `${name} ${value}`)
      .join(", "),
  };
  const known = Object.entries(facts).filter(([, fact]) => fact) as [string, string][];
  return Object.fromEntries(known);
}

function startNew(): void {
  if (place === "") return composer.text.focus();
  history.pushState(null, "", location.pathname + location.search);
  turn();
}

/** Return when the server takes requests, saying meanwhile why it does not. */
async function ready(): Promise<void> {
  for (;;) {
    const { status } = await api.health().catch(() => ({ status: "unreachable" }));
    if (status === "ready") return say("");
    const why = navigator.onLine ? `The server is ${status}, waiting…` : "You are offline, waiting…";
    say(status === "loading" ? "The model is loading…" : why);
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
    byId("model").hidden = false;
    void composer.ready(model);
    settings.show(model);
    await sidebar.load();
    await openAddress();
    wishes.next();
  } catch (error) {
    wishes.clear();
    fail(error);
  } finally {
    isStarting = false;
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
composer.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
composer.text.addEventListener("input", () => {
  wishes.withdraw("send"); // half of a text is not to go out
  update();
});
listen({
  begin: startNew,
  search: () => search.focus(),
  write: () => composer.text.focus(),
  stop: () => void chat.stop().catch(fail),
});
byId("model").addEventListener("click", () => void showModel().catch(fail));
byId("stop").addEventListener("click", () => chat.stop().catch(fail));
byId("new").addEventListener("click", startNew);
title.addEventListener("change", () => {
  const name = title.value.trim();
  if (name) chat.rename(name).catch(fail);
});
title.addEventListener("keydown", (event) => {
  if (event.key === "Escape") showTitle();
  if (event.key === "Escape" || (event.key === "Enter" && !event.isComposing)) title.blur();
  if (event.key === "Escape") event.stopPropagation(); // an answer goes on
});
title.addEventListener("blur", showTitle);
for (const idea of byId("ideas").querySelectorAll("button")) {
  idea.addEventListener("click", () => {
    if (chat.isBusy || chat.messages.length > 0) return; // a click too many
    composer.write(idea.textContent!);
    send();
  });
}
addEventListener("hashchange", turn);
document.addEventListener("visibilitychange", () => {
  // Meanwhile another browser may have begun something.
  if (document.hidden || model === null) return;
  sidebar.load().catch(() => {});
  void refresh();
});
composer.open("");
void start();
