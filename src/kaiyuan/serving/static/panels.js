// The two side panels: drawers over the page on small screens, columns beside it on large ones.

import { byId } from "./dom.js";
import { preference, setPreference } from "./preferences.js";

/** Widths at which a panel is a column. */
const COLUMNS = { sidebar: matchMedia("(min-width: 800px)"), settings: matchMedia("(min-width: 1180px)") };
const BUTTONS = { sidebar: "menu", settings: "open-settings" };

export class Panels {
  constructor() {
    this.drawer = "";
    this.columns = { sidebar: preference("sidebar") !== "closed", settings: false };
    for (const query of Object.values(COLUMNS)) query.addEventListener("change", () => this.update());
    byId("scrim").addEventListener("click", () => this.close());
    addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && this.escape());
  }

  isOpen(name) {
    return COLUMNS[name].matches ? this.columns[name] : this.drawer === name;
  }

  toggle(name) {
    const open = !this.isOpen(name);
    if (COLUMNS[name].matches) this.columns[name] = open;
    else this.drawer = open ? name : "";
    if (name === "sidebar" && COLUMNS.sidebar.matches) setPreference("sidebar", open ? null : "closed");
    this.update();
    if (open) byId(name).querySelector("button, input, textarea")?.focus();
    else byId(BUTTONS[name])?.focus();
  }

  /** Close the drawer, if there is one. */
  close() {
    this.drawer = "";
    this.update();
  }

  escape() {
    const { drawer } = this;
    if (!drawer) return;
    this.close();
    byId(BUTTONS[drawer])?.focus();
  }

  /** A panel that is closed, and the page behind a drawer, cannot be reached by the keyboard. */
  update() {
    const drawer = this.drawer && !COLUMNS[this.drawer].matches ? this.drawer : "";
    for (const name of ["sidebar", "settings"]) {
      const open = this.isOpen(name);
      document.body.classList.toggle(`with-${name}`, open);
      byId(name).inert = !open || (drawer !== "" && drawer !== name);
      byId(BUTTONS[name])?.setAttribute("aria-expanded", String(open));
    }
    byId("scrim").hidden = drawer === "";
    byId("main").inert = drawer !== "";
  }
}
