// The server's HTTP interface, as far as the page uses it. Knows no DOM.

import type { Options } from "./request.ts";

export interface Conversation {
  id: string;
  created_at: number;
  /** `response` is the last one; `leaf` the item that was last on show, if not the newest. */
  metadata: Record<string, string> & { title?: string; response?: string; leaf?: string };
}

/** Its `type` tells which of the fields it has; a message may go without one. */
export interface Item {
  id: string;
  type?: string;
  role?: "user" | "assistant" | "system" | "developer";
  status?: "in_progress" | "completed" | "incomplete";
  content?: { text?: string; refusal?: string }[];
  summary?: { text: string }[]; // of reasoning
  call_id?: string;
  name?: string;
  arguments?: string; // of a function's call; a custom tool's is its input
  input?: string;
  output?: string | { text?: string }[];
  after?: string; // what it follows, if not the item before it
}

/** What a search found: by the title, or by what an item says. */
export interface Found {
  conversation: Conversation;
  item: Item | null;
}

/** Options of requests under a name. */
export interface Preset {
  id: string;
  name: string;
  settings: Options;
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  input_tokens_details?: { cached_tokens: number };
}

export interface ResponseObject {
  id: string;
  status: "in_progress" | "completed" | "incomplete" | "cancelled" | "failed";
  error: { message: string } | null;
  conversation: { id: string; after?: string } | null;
  output: Item[];
  usage: Usage | null;
  seed?: string; // its digits: see `parseWithSeed`
}

export interface Health {
  status: string;
  running: number; // requests that are answered now
  waiting: number; // and those before which others come
}

export interface Model {
  id: string;
  max_model_len: number | null;
  sampling: Record<string, number>; // what holds where a request leaves it out
  details: {
    parameters?: number;
    precision?: string; // in which it is computed
    file_precision?: string;
    file_format?: string;
    file_bytes?: number;
    chat_template?: string;
  };
}

interface List<T> {
  data: T[];
  has_more: boolean;
  last_id: string | null;
}

/** JSON with a response in it. Its seed may be larger than a number can be in JavaScript. */
export function parseWithSeed<T extends { response?: ResponseObject }>(json: string): T {
  const parsed = JSON.parse(json) as T;
  // A quote inside of a text has a backslash in front, so this is a name and no text.
  const seed = /"seed":(\d+)/.exec(json)?.[1];
  if (parsed.response && seed !== undefined) parsed.response.seed = seed;
  return parsed;
}

/** A refusal in the server's own words. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly param: string | null = null,
    readonly retryAfterS: number | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later without anybody's doing. */
  get isTemporary(): boolean {
    return [502, 503, 504].includes(this.status);
  }
}

/** The server cannot be reached, or went away in the middle. */
export class ConnectionLost extends Error {}

/** Asks the person for an API key; null when they decline. */
export type AskKey = (why: string) => Promise<string | null>;

interface Sending {
  method?: string;
  body?: string; // JSON
  headers?: Record<string, string>;
  signal?: AbortSignal;
  keepalive?: boolean;
}

export class Api {
  constructor(
    private readonly base: string,
    public key: string | null,
    private readonly askKey: AskKey,
  ) {}

  /** Send a request, with a key as soon as one is wanted. Raises ApiError and ConnectionLost. */
  async send(path: string, options: Sending = {}): Promise<Response> {
    for (;;) {
      const usedKey = this.key;
      const response = await this.attempt(path, options);
      if (response.ok) return response;
      const error = await toError(response);
      if (error.status !== 401) throw error;
      if (this.key === usedKey) this.key = await this.askKey(usedKey ? error.message : "");
      if (this.key === null) throw error;
    }
  }

  async health(): Promise<Health> {
    const response = await this.attempt("health", {});
    const body = (await response.json().catch(() => ({}))) as Partial<Health>;
    const status = response.ok ? "ready" : (body.status ?? "unreachable");
    return { status, running: body.running ?? 0, waiting: body.waiting ?? 0 };
  }

  async version(): Promise<string> {
    return (await this.json<{ version: string }>("version")).version;
  }

  async numTokens(model: string, prompt: string): Promise<number> {
    const body = JSON.stringify({ model, prompt, add_special_tokens: false });
    return (await this.json<{ count: number }>("tokenize", { method: "POST", body })).count;
  }

  /** An answer that the server does not keep. */
  async reply(model: string, messages: { role: string; content: string }[], maxTokens: number) {
    const request = { model, messages, max_tokens: maxTokens, truncation: "auto" };
    const answer = await this.json<{ choices: { message: { content: string } }[] }>(
      "v1/chat/completions",
      { method: "POST", body: JSON.stringify(request) },
    );
    return answer.choices[0]!.message.content;
  }

  async model(): Promise<Model> {
    const models = await this.json<List<Model>>("v1/models");
    return models.data[0]!;
  }

  conversations(after?: string): Promise<List<Conversation>> {
    return this.json(`v1/conversations?limit=50${after ? `&after=${after}` : ""}`);
  }

  async search(query: string, signal: AbortSignal): Promise<Found[]> {
    const path = `v1/search/conversations?limit=30&query=${encodeURIComponent(query)}`;
    return (await this.json<{ data: Found[] }>(path, { signal })).data;
  }

  conversation(id: string): Promise<Conversation> {
    return this.json(`v1/conversations/${id}`);
  }

  createConversation(metadata: Conversation["metadata"]): Promise<Conversation> {
    return this.json("v1/conversations", { method: "POST", body: JSON.stringify({ metadata }) });
  }

  /** Replaces the metadata. */
  updateConversation(id: string, metadata: Conversation["metadata"]): Promise<Conversation> {
    return this.json(`v1/conversations/${id}`, {
      method: "POST",
      body: JSON.stringify({ metadata }),
    });
  }

  /** Goes out also while the page is closed. */
  async deleteConversation(id: string): Promise<void> {
    await this.send(`v1/conversations/${id}`, { method: "DELETE", keepalive: true });
  }

  async addItems(
    conversation: string,
    items: ({ role: string; content: string } | Partial<Item>)[],
    after?: string,
  ): Promise<Item[]> {
    const body = JSON.stringify(after === undefined ? { items } : { items, after });
    const path = `v1/conversations/${conversation}/items`;
    return (await this.json<List<Item>>(path, { method: "POST", body })).data;
  }

  /** All items behind `after`, oldest first. */
  async items(conversation: string, after?: string): Promise<Item[]> {
    return this.all(`v1/conversations/${conversation}/items`, after);
  }

  /** All of them. Numbers that JavaScript's would change are `JSON.rawJSON`'s where the browser can. */
  async presets(): Promise<Preset[]> {
    const text = await textOf(await this.send("v1/presets?limit=100&order=asc"));
    return (JSON.parse(text, exact) as List<Preset>).data;
  }

  /** Keep a new one, or give the one of this name other `settings`: JSON. */
  async savePreset(name: string, settings: string): Promise<void> {
    const body = `{"name":${JSON.stringify(name)},"settings":${settings}}`;
    await this.send("v1/presets", { method: "POST", body });
  }

  async deletePreset(id: string): Promise<void> {
    await this.send(`v1/presets/${id}`, { method: "DELETE" });
  }

  /** Begin a response, or find the one that `key` began, and return it as it is. */
  begin(body: string, key: string): Promise<ResponseObject> {
    const headers = { "Idempotency-Key": key };
    return this.json("v1/responses", { method: "POST", body, headers });
  }

  async response(id: string): Promise<ResponseObject> {
    const text = await textOf(await this.send(`v1/responses/${id}`));
    return parseWithSeed<{ response: ResponseObject }>(`{"response":${text}}`).response;
  }

  inputItems(response: string): Promise<Item[]> {
    return this.all(`v1/responses/${response}/input_items`);
  }

  async cancel(response: string): Promise<void> {
    await this.send(`v1/responses/${response}/cancel`, { method: "POST" });
  }

  private async all(path: string, after?: string): Promise<Item[]> {
    const items: Item[] = [];
    for (;;) {
      const behind = after === undefined ? "" : `&after=${after}`;
      const page = await this.json<List<Item>>(`${path}?order=asc&limit=100${behind}`);
      items.push(...page.data);
      if (!page.has_more) return items;
      after = page.last_id!;
    }
  }

  private async json<T>(path: string, options: Sending = {}): Promise<T> {
    const response = await this.send(path, options);
    try {
      return (await response.json()) as T;
    } catch {
      throw new ConnectionLost();
    }
  }

  private async attempt(path: string, options: Sending): Promise<Response> {
    const headers: Record<string, string> = { ...options.headers };
    if (this.key !== null) headers["Authorization"] = `Bearer ${this.key}`;
    if (options.body !== undefined) headers["Content-Type"] = "application/json";
    try {
      return await fetch(this.base + path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ConnectionLost();
    }
  }
}

function textOf(response: Response): Promise<string> {
  return response.text().catch(() => {
    throw new ConnectionLost();
  });
}

/** For JSON.parse. */
export function exact(_name: string, value: unknown, context?: { source?: string }): unknown {
  const { rawJSON } = JSON as { rawJSON?: (source: string) => object };
  const source = typeof value === "number" && context?.source;
  return rawJSON && source && source !== String(value) ? rawJSON(source) : value;
}

async function toError(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => null)) as {
    error?: { message?: string; param?: string | null; code?: string | null };
  } | null;
  const after = Number(response.headers.get("Retry-After") ?? NaN);
  return new ApiError(
    body?.error?.message ?? `The server answered ${response.status}.`,
    response.status,
    body?.error?.param ?? null,
    Number.isFinite(after) ? after : null,
    body?.error?.code ?? null,
  );
}
