// Small choices in localStorage, and the API key and drafts in sessionStorage. Either may be forbidden: then nothing is kept.

const PREFIX = "kaiyuan.";

function attempt(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

export function preference(name) {
  return attempt(() => localStorage.getItem(PREFIX + name));
}

/** Keep `value`; null forgets it. */
export function setPreference(name, value) {
  attempt(() => (value === null ? localStorage.removeItem(PREFIX + name) : localStorage.setItem(PREFIX + name, value)));
}

/** A value that lives as long as the tab. */
export function tabValue(name) {
  return attempt(() => sessionStorage.getItem(PREFIX + name));
}

export function setTabValue(name, value) {
  attempt(() => (value ? sessionStorage.setItem(PREFIX + name, value) : sessionStorage.removeItem(PREFIX + name)));
}
