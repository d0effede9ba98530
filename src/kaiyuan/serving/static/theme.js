// A classic script in <head>, so that the reader's choice of theme is there before the first paint.
"use strict";
try {
  const theme = localStorage.getItem("kaiyuan.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden: the system's theme is used.
}
