// Settings and the API key.

import type { Api, Model } from "./api.ts";
import { byId } from "./dom.ts";
import { PresetChoice } from "./presets.ts";
import { DEFAULTS, type Settings } from "./request.ts";
import { storage } from "./storage.ts";

export class SettingsDialog {
  private readonly dialog = byId<HTMLDialogElement>("settings-dialog");
  private readonly fields = {
    instructions: byId<HTMLTextAreaElement>("instructions"),
    temperature: byId<HTMLInputElement>("temperature"),
    maxTokens: byId<HTMLInputElement>("max-tokens"),
    seed: byId<HTMLInputElement>("seed"),
    topP: byId<HTMLInputElement>("top-p"),
    topK: byId<HTMLInputElement>("top-k"),
    minP: byId<HTMLInputElement>("min-p"),
    repetitionPenalty: byId<HTMLInputElement>("repetition-penalty"),
    presencePenalty: byId<HTMLInputElement>("presence-penalty"),
    frequencyPenalty: byId<HTMLInputElement>("frequency-penalty"),
    schema: byId<HTMLTextAreaElement>("schema"),
  };
  private readonly dropOldest = byId<HTMLInputElement>("drop-oldest");
  private readonly presets: PresetChoice;

  constructor(api: Api, onForgetKey: () => void) {
    this.presets = new PresetChoice(
      api,
      () => this.settings,
      (settings) => this.use(settings),
      (param, message) => this.openAt(param, message),
    );
    this.fill({ ...DEFAULTS, ...storage.settings() });
    this.dialog.addEventListener("input", (event) => {
      this.mark(event.target as HTMLElement, null);
      storage.setSettings(this.settings);
      this.presets.show();
    });
    byId("settings").addEventListener("click", () => this.open());
    byId("forget-key").addEventListener("click", () => {
      this.dialog.close();
      onForgetKey();
    });
  }

  get settings(): Settings {
    const typed = Object.fromEntries(this.entries().map(([name, field]) => [name, field.value]));
    return { ...DEFAULTS, ...typed, dropOldest: this.dropOldest.checked };
  }

  private use(settings: Settings): void {
    this.fill(settings);
    for (const [, field] of this.entries()) this.mark(field, null);
    storage.setSettings(this.settings);
  }

  private fill(settings: Settings): void {
    for (const [name, field] of this.entries()) field.value = settings[name];
    this.dropOldest.checked = settings.dropOldest;
  }

  /** Take the oldest turns out of what grows too long, from now on. */
  setDropOldest(): void {
    this.dropOldest.checked = true;
    storage.setSettings(this.settings);
  }

  show(model: Model): void {
    const limit = model.max_model_len;
    this.fields.maxTokens.placeholder = limit ? `up to ${limit}` : "";
  }

  /** Open at the field that the server calls `param`, perhaps with what is wrong there; whether
   * there is one. */
  openAt(param: string, message: string | null): boolean {
    const field = this.dialog.querySelector<HTMLElement>(`[data-param~="${CSS.escape(param)}"]`);
    if (field === null) return false;
    const more = field.closest("details");
    if (more) more.open = true;
    this.open();
    this.mark(field, message);
    field.focus();
    return true;
  }

  private open(): void {
    byId("forget-key").hidden = storage.key() === null;
    if (this.dialog.open) return;
    this.dialog.showModal();
    void this.presets.load();
  }

  private entries() {
    return Object.entries(this.fields) as [keyof typeof this.fields, HTMLInputElement][];
  }

  private mark(field: HTMLElement, message: string | null): void {
    field.setAttribute("aria-invalid", String(message !== null));
    const place = field.nextElementSibling;
    if (!(place instanceof HTMLElement && place.classList.contains("field-error"))) return;
    place.textContent = message;
    place.hidden = message === null;
  }
}

let asking: Promise<string | null> | null = null;

/** Ask for the API key, once for all requests that want it. Null when the person declines. */
export function askKey(why: string): Promise<string | null> {
  asking ??= new Promise<string | null>((resolve) => {
    const field = byId<HTMLInputElement>("key");
    byId("key-error").textContent = why;
    byId("key-error").hidden = !why;
    void ask("key-dialog").then((isGiven) => {
      const key = isGiven ? field.value.trim() : null;
      if (key) storage.setKey(key, byId<HTMLInputElement>("remember").checked);
      field.value = "";
      asking = null;
      resolve(key || null);
    });
  });
  return asking;
}

function ask(id: string): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const onClose = () => resolve(dialog.returnValue === "ok");
    dialog.addEventListener("close", onClose, { once: true });
    const cancel = dialog.querySelector<HTMLButtonElement>("[value=cancel]")!;
    cancel.onclick = () => dialog.close("cancel"); // not by way of the form, which may be invalid
  });
}
