// Which model the server has, and what the page says while there is no server.

import { ApiError, hasKey, servedModel } from "./api.js";
import { announce } from "./dom.js";
import { t } from "./i18n.js";
import { askForKey, banner } from "./notices.js";

const WAITS = [1, 2, 4, 8, 15];
const PATIENCE = 10_000;

export class Connection {
  /** `onModel` is called whenever the server has said which model it has. */
  constructor(onModel) {
    this.onModel = onModel;
    this.model = { id: "", context: 0 };
    this.tries = 0;
    this.isOffline = false;
  }

  async connect() {
    clearTimeout(this.timer);
    try {
      this.model = await servedModel(AbortSignal.timeout(PATIENCE));
    } catch (error) {
      this.failed(error);
      return;
    }
    if (this.isOffline) announce(t("back"));
    this.isOffline = false;
    this.tries = 0;
    banner();
    this.onModel();
  }

  failed(error) {
    const kind = error instanceof ApiError ? error.kind : "offline";
    if (kind === "offline") {
      this.retryLater();
    } else if (kind === "locked") {
      const ask = () => askForKey(hasKey(), () => this.connect());
      banner(t("locked"), t("keyUse"), ask);
      ask();
    } else banner(t(kind, { message: error.message }), t("retry"), () => this.connect());
  }

  /** Try again by and by, with a button for those who do not want to wait. */
  retryLater() {
    this.isOffline = true;
    const wait = WAITS[Math.min(this.tries++, WAITS.length - 1)];
    banner(`${t("offlineBanner")} ${t("retryIn", { seconds: wait })}`, t("tryNow"), () => this.connect());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), wait * 1000);
  }
}
