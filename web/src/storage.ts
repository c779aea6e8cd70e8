// What this browser remembers: settings, the key, and requests whose answer has no known id yet.

import type { Settings } from "./request.ts";

/** A request as it was sent. Sent again under the same key it begins nothing new. */
export interface Pending {
  key: string;
  body: string;
  sentMs: number;
}

const PREFIX = "llamastream.";
// The server remembers a key for a day: later the same request would be a new one.
const PENDING_MS = 12 * 3600 * 1000;

export const storage = {
  settings: (): Partial<Settings> => read<Partial<Settings>>(localStorage, "settings") ?? {},
  setSettings: (settings: Settings) => write(localStorage, "settings", settings),

  /** What this page kept here before the server did. */
  presets: () => read<Record<string, Partial<Settings>>>(localStorage, "presets"),
  forgetPresets: () => write(localStorage, "presets", null),

  /** Of a conversation, or of one that has not begun (""): that is this tab's. */
  draft: (conversation: string): string =>
    read<string>(draftsOf(conversation), `draft.${conversation}`) ?? "",
  setDraft: (conversation: string, text: string) =>
    write(draftsOf(conversation), `draft.${conversation}`, text || null),

  key: () => read<string>(sessionStorage, "key") ?? read<string>(localStorage, "key"),
  setKey(key: string | null, forever: boolean) {
    write(sessionStorage, "key", forever ? null : key);
    write(localStorage, "key", forever ? key : null);
  },

  pending(conversation: string): Pending | null {
    const found = read<Pending>(localStorage, `pending.${conversation}`);
    return found !== null && Date.now() - found.sentMs < PENDING_MS ? found : null;
  },
  setPending: (conversation: string, pending: Pending | null) =>
    write(localStorage, `pending.${conversation}`, pending),
};

function draftsOf(conversation: string): Storage {
  return conversation ? localStorage : sessionStorage;
}

function read<T>(from: Storage, name: string): T | null {
  try {
    return JSON.parse(from.getItem(PREFIX + name) ?? "null") as T | null;
  } catch {
    return null; // not ours
  }
}

function write(to: Storage, name: string, value: unknown): void {
  try {
    if (value === null) to.removeItem(PREFIX + name);
    else to.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // No room, or none given: what is kept is a help, and the server has the rest.
  }
}
