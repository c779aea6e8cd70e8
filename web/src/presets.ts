// Settings under a name, kept on the server, and as files to take elsewhere.

import { ApiError, ConnectionLost, exact, type Api, type Preset } from "./api.ts";
import { byId, el } from "./dom.ts";
import { FileError, save } from "./files.ts";
import { DEFAULTS, fromOptions, SettingError, toOptions, type Options, type Settings } from "./request.ts";
import { storage } from "./storage.ts";

export type Presets = Record<string, Options>; // by name

const FORMAT = "llamastream presets 2";
const OLD_FORMAT = "llamastream presets 1"; // and what a browser kept: settings as they were typed

export class PresetChoice {
  private presets: Preset[] = [];
  private last = Promise.resolve();
  private readonly choice = byId<HTMLSelectElement>("preset");
  private readonly name = byId<HTMLInputElement>("preset-name");
  private readonly error = byId("preset-error");

  /** `settings` tells what is set now, `use` sets it, `refuse` shows what is wrong with a setting if
   * it has that. */
  constructor(
    private readonly api: Api,
    private readonly settings: () => Settings,
    private readonly use: (settings: Settings) => void,
    private readonly refuse: (param: string, message: string) => boolean,
  ) {
    this.choice.addEventListener("input", () => this.choose());
    byId("preset-save").addEventListener("click", ({ detail }) => detail < 2 && void this.keep());
    this.name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault(); // of the dialog's form
      void this.keep();
    });
    byId("preset-delete").addEventListener("click", ({ detail }) => detail < 2 && void this.remove());
    byId("preset-export").addEventListener("click", () => {
      save("presets.json", "application/json", toFile(byName(this.presets)));
    });
    const file = byId<HTMLInputElement>("preset-file");
    byId("preset-import").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const given = file.files?.[0];
      if (given) void this.act(async () => this.takeIn(fromFile(await given.text())));
      file.value = "";
    });
  }

  /** Fetch them, with those that this browser kept itself before the server did. */
  load(): Promise<void> {
    return this.act(async () => {
      const kept = storage.presets();
      if (kept === null) return;
      await this.fetch();
      await this.takeIn(fromTyped(kept));
      storage.forgetPresets();
    });
  }

  /** Show what there is to choose, and which of it is set now, if any. */
  show(): void {
    const sorted = [...this.presets].sort((a, b) => a.name.localeCompare(b.name));
    const now = asSet(this.settings());
    const isSet = ({ settings }: Preset) => now !== null && asSet(fromOptions(settings).settings) === now;
    const options = sorted.map(({ id, name }) => el("option", { value: id }, name));
    this.choice.replaceChildren(el("option", { value: "" }, "None"), ...options);
    this.choice.value = sorted.find(isSet)?.id ?? "";
    byId("preset-choice").hidden = byId("preset-export").hidden = sorted.length === 0;
    byId("preset-delete").hidden = !this.choice.value;
  }

  private get chosen(): Preset | undefined {
    return this.presets.find(({ id }) => id === this.choice.value);
  }

  private choose(): void {
    const { settings, others } = fromOptions(this.chosen?.settings ?? {});
    if (this.chosen) this.use(settings);
    this.say(others.length > 0 ? `This page has no setting for ${others.join(", ")}.` : "");
    this.show();
  }

  private async keep(): Promise<void> {
    const name = this.name.value.trim();
    this.say(name ? "" : "A preset needs a name.");
    if (!name) return this.name.focus();
    await this.act(async () => {
      await this.api.savePreset(name, toOptions(this.settings()));
      this.name.value = "";
    });
  }

  /** Its settings and its name stay in their fields, so that it can be saved again. */
  private async remove(): Promise<void> {
    const { id, name } = this.chosen!;
    await this.act(async () => {
      await this.api.deletePreset(id);
      this.name.value = name;
    });
    this.choice.focus();
  }

  /** All that the server takes. Raises what it says of the first of the others. */
  private async takeIn(added: Presets): Promise<void> {
    const old = byName(this.presets);
    const refused: Error[] = [];
    for (const [name, options] of Object.entries(joined(old, added))) {
      if (Object.hasOwn(old, name)) continue;
      await this.api.savePreset(name, JSON.stringify(options)).catch((error: unknown) => {
        if (!(error instanceof ApiError)) throw error;
        refused.push(new FileError(`${name}: ${error.message}`));
      });
    }
    if (refused[0]) throw refused[0];
  }

  /** Do something when what was begun before is over, say what comes of it, and show what the server
   * has by then. */
  private act(deed: () => Promise<void>): Promise<void> {
    this.last = this.last.then(() => this.doNow(deed));
    return this.last;
  }

  private async doNow(deed: () => Promise<void>): Promise<void> {
    try {
      this.say("");
      await deed();
    } catch (error) {
      this.fail(error);
    }
    await this.fetch().catch((error: unknown) => this.fail(error));
    this.show();
  }

  private async fetch(): Promise<void> {
    this.presets = await this.api.presets();
  }

  private fail(error: unknown): void {
    const { message } = error as Error;
    const isSetting = error instanceof SettingError || error instanceof ApiError;
    if (isSetting && error.param && this.refuse(error.param, message)) return;
    if (!(error instanceof ConnectionLost)) return this.say(message);
    this.say("The server cannot be reached: try again in a moment.");
  }

  private say(words: string): void {
    this.error.textContent = words;
    this.error.hidden = !words;
    if (!words) return;
    this.error.closest("details")!.open = true;
    this.error.scrollIntoView({ block: "nearest" });
  }
}

export function toFile(presets: Presets): string {
  return JSON.stringify({ format: FORMAT, presets }, null, 1);
}

/** What `toFile` wrote, now or before. Raises FileError. */
export function fromFile(json: string): Presets {
  try {
    const { format, presets } = JSON.parse(json, exact) as { format: string; presets: Presets };
    if (!Object.keys(presets).every((name) => name.trim())) throw new TypeError();
    if (format === OLD_FORMAT) return fromTyped(presets);
    if (format !== FORMAT || !Object.values(presets).every(isObject)) throw new TypeError();
    return presets;
  } catch {
    throw new FileError("This is no file of presets: choose one that this page saved.");
  }
}

/** Both: one of a name that is taken by other settings gets a number. */
export function joined(old: Presets, added: Presets): Presets {
  const all = new Map(Object.entries(old));
  for (const [name, settings] of Object.entries(added)) {
    let free = name;
    const isTaken = () => all.has(free) && JSON.stringify(all.get(free)) !== JSON.stringify(settings);
    for (let k = 2; isTaken(); k++) free = `${name} (${k})`;
    all.set(free, settings);
  }
  return Object.fromEntries(all);
}

/** Presets as they were before the server kept them. What is no number in them was of no use. */
export function fromTyped(presets: Record<string, Partial<Settings>>): Presets {
  return Object.fromEntries(
    Object.entries(presets).map(([name, given]) => [name.trim(), optionsOf(checked(given))]),
  );
}

function optionsOf(settings: Settings): Options {
  try {
    return JSON.parse(toOptions(settings), exact) as Options;
  } catch (error) {
    if (!(error instanceof SettingError)) throw error;
    return optionsOf({ ...settings, [error.setting]: "" });
  }
}

function checked(given: Partial<Settings>): Settings {
  const settings = { ...DEFAULTS, ...given };
  for (const [name, value] of Object.entries(settings)) {
    if (!(name in DEFAULTS)) throw new TypeError();
    if (typeof value !== typeof DEFAULTS[name as keyof Settings]) throw new TypeError();
  }
  return settings;
}

/** To compare: what would be asked of the server, if it can be. */
function asSet(settings: Settings): string | null {
  try {
    return toOptions(settings);
  } catch {
    return null;
  }
}

function byName(presets: Preset[]): Presets {
  return Object.fromEntries(presets.map(({ name, settings }) => [name, settings]));
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
