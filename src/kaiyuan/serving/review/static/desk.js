// Asking the server. Every failure becomes an Error whose text can be shown.

import { t } from "./i18n.js";

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(t("offline"));
  }
  const value = await response.json().catch(() => null);
  if (response.ok && value !== null) return value;
  const error = new Error(t("refused", { reason: value?.error?.message ?? String(response.status) }));
  error.status = response.status;
  throw error;
}

/** POST `body` as JSON. */
export function post(path, body) {
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

export function get(path) {
  return ask(path, {});
}
