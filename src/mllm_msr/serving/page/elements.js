// Elements that several parts of the page use: covers, skeletons, problems, the status line.

import { fetchJson, hasKey, idOf, request } from "/page/api.js";

export const $ = (id) => document.getElementById(id);
export const items = new Map(); // items from the service, by id

// Text from a model or from the catalog is inserted as text, never as markup.
export function element(name, properties = {}, ...children) {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children);
  return created;
}

export function button(text, onClick, properties = {}) {
  const created = element("button", { type: "button", ...properties }, text);
  created.addEventListener("click", onClick);
  return created;
}

export async function loadItems(ids) {
  const unknown = [...new Set(ids)].filter((id) => !items.has(id));
  for (let at = 0; at < unknown.length; at += 100) {
    const query = unknown.slice(at, at + 100).map((id) => `item_id=${idOf(id)}`).join("&");
    for (const item of (await fetchJson(`/v1/items?${query}`)).items) items.set(item.item_id, item);
  }
}

export const titleOf = (id) => items.get(id)?.title ?? id;

export function cover(id) {
  if (!items.get(id)?.image) return element("span", { className: "cover", ariaHidden: "true" }, titleOf(id).slice(0, 1));
  const image = element("img", { className: "cover", alt: "", width: 160, height: 160 });
  const path = `/v1/items/${idOf(id)}/image`;
  if (!hasKey()) image.src = path;
  else request(path).then(async (response) => { image.src = URL.createObjectURL(await response.blob()); }).catch(() => {});
  return image;
}

// ---- status line

let undoing = null;

// Show a success, with a button that reverses it.
export function say(text, undo = null) {
  $("status").textContent = text;
  undoing = undo;
  $("undo").hidden = !undo;
}

$("undo").addEventListener("click", () => {
  const undo = undoing;
  say("Undoing …");
  undo?.();
});

// ---- problems and waiting

const MAX_WAIT = 60; // seconds between automatic attempts
const waiting = new Map(); // timers of problems, by container

// Show an error in a container until `clearProblem`, with a button that tries again. If waiting
// helps, the page tries again by itself, later each time.
export function showProblem(container, error, retry, attempt = 0) {
  if (!error.status && !("retryAfter" in error)) console.error(error);
  clearProblem(container);
  const expected = "retryAfter" in error;
  const text = element("p", {}, expected ? error.message : "The page failed. Reload it.");
  const again = button("Try again", () => { clearProblem(container); retry(0); });
  container.replaceChildren(text, again);
  container.hidden = false;
  if (error.retryAfter == null) return;
  const end = Date.now() + 1000 * Math.min(MAX_WAIT, error.retryAfter * 2 ** attempt);
  const count = () => {
    const seconds = Math.ceil((end - Date.now()) / 1000);
    if (seconds > 0) again.textContent = `Try again now (in ${seconds} s by itself)`;
    else { clearProblem(container); retry(attempt + 1); }
  };
  waiting.set(container, setInterval(count, 250));
  count();
}

export function clearProblem(container) {
  clearInterval(waiting.get(container));
  waiting.delete(container);
  container.hidden = true;
}

// Placeholders of the same size as what is being loaded.
export function skeleton(n) {
  return Array.from({ length: n }, () => element("li", { className: "skeleton", ariaHidden: "true" }));
}
