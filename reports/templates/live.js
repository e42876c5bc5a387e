// Asks for the version of the results, and loads the page again when it is newer; see reports/serving.py.
(() => {
"use strict";
const EVERY_MS = 2000;
const note = document.getElementById("live");
const version = note.dataset.version;
async function ask() {
  try {
    const told = await (await fetch("version", {cache: "no-store"})).json();
    note.textContent = told.has_ended ? "The study has ended." : "Updates while the study runs.";
    // An open drawer is read; the page waits for it to close.
    if (told.version !== version && !document.querySelector("dialog[open]")) location.reload();
  } catch {
    note.textContent = "pruneyard watch has ended; this page no longer updates.";
    return;
  }
  setTimeout(ask, EVERY_MS);
}
setTimeout(ask, EVERY_MS);
})();
