// Dialogs: one item in detail, and a user id that is not known.

import { fetchJson, idOf } from "/page/api.js";
import { $, button, cover, element, items, titleOf } from "/page/elements.js";
import { foundBy, matchText, movedByRetrieval, nameOf, whyUnscored } from "/page/lists.js";
import { historyShown, state } from "/page/state.js";

let actions = {}; // like, dislike and remove

let open = null; // the item in the dialog: {id, listed, list, at, text}

export const onItemAction = (given) => { actions = given; };

// Show an item; `listed` is its row in a list, `at` its place in the history.
export async function openItem(id, listed = null, at = null) {
  const text = element("p", {}, "Loading …");
  open = { id, listed, list: state.shown.other.includes(listed) ? "other" : "own", at, text };
  $("item-title").textContent = titleOf(id);
  $("item-cover").replaceChildren(cover(id));
  drawItem();
  if (!$("item").open) $("item").showModal();
  try {
    const found = await fetchJson(`/v1/items?item_id=${idOf(id)}&text=true`);
    text.textContent = found.items[0]?.text || "The item has no text besides its title.";
  } catch (error) {
    text.textContent = `The text cannot be loaded. ${error.message}`;
  }
}

// Draw the item as the lists and the history are now: they may change while the dialog is open.
function drawItem() {
  if (!open) return;
  const { id, list, text } = open;
  const sections = [element("h3", {}, "Text of the item"), text];
  if (items.get(id)?.summary) sections.push(element("h3", {}, "Summary by the model"), element("p", {}, items.get(id).summary));
  if (open.listed) {
    const listed = state.shown[list].find((item) => item.item_id === id);
    open.listed = listed ?? open.listed;
    sections.push(element("h3", {}, "Why it is recommended"), ...(listed ? reasons(listed) : [element("p", {}, "The new list does not contain it.")]));
  } else {
    if (historyShown()[open.at] !== id) open.at = historyShown().lastIndexOf(id);
    sections.push(element("h3", {}, "In the history"), element("p", {}, place(open.at)));
  }
  $("item-about").replaceChildren(...sections);
  const focused = [...$("item-buttons").children].indexOf(document.activeElement);
  $("item-buttons").replaceChildren(...buttons(open));
  $("item-buttons").children[focused]?.focus();
}

document.addEventListener("drawn", drawItem);
$("item").addEventListener("close", () => {
  keepFocus(open.id);
  open = null;
});

// The row that opened the dialog is gone if the list was drawn again in the meantime. The focus then
// stays in the closed dialog, or is lost.
function keepFocus(id) {
  const { activeElement } = document;
  if (activeElement !== document.body && !$("item").contains(activeElement)) return;
  const row = document.querySelector(`#lists [data-item="${CSS.escape(id)}"] .title`);
  (row ?? $("list")).focus({ preventScroll: true });
}

function reasons(item) {
  const list = item.rank ? [`Rank ${item.rank} in this list.`] : [];
  if (item.score !== null) {
    list.push(`Match ${matchText(item)}: how strongly the model answers yes. Not the chance that the item comes next.`);
    const all = state.shown.own.includes(item) ? state.shown.own : state.shown.other;
    const moved = movedByRetrieval(all).get(item.item_id);
    if (moved) list.push(`Retrieval moved it ${moved > 0 ? "up" : "down"} by ${Math.abs(moved)}, compared with the order by match alone.`);
  }
  if (whyUnscored(item)) list.push(whyUnscored(item));
  if (item.reason === "baseline") list.push(`Ranked by ${nameOf(item.generators[0])}.`);
  else list.push(`Found by: ${foundBy(item)}.`);
  if (item.matches?.length) list.push(`Matches in the preference or history: ${item.matches.map((one) => `“${one}”`).join(", ")}.`);
  return [element("ul", {}, ...list.map((line) => element("li", {}, line)))];
}

function place(at) {
  if (at < 0) return "The history does not contain it any more.";
  const read = state.user.preference_history.at(-1)?.n_items ?? 0;
  const included = at < read ? "The latest preference includes it." : "The latest preference does not include it yet.";
  return `Item ${at + 1} of ${historyShown().length}. ${included}`;
}

function buttons({ id, listed, at }) {
  const close = (action) => () => { $("item").close(); action(); };
  if (listed) {
    return [
      button("♥ Like", close(() => actions.like(listed)), { className: "primary" }),
      button("✕ Not for me", close(() => actions.dislike(listed))),
    ];
  }
  // The history begins with the items of the run, which cannot be removed.
  const own = state.user.events.filter((event) => event.type === "interaction");
  const event = own[at - (state.user.history.length - own.length)];
  return event?.item_id === id ? [button("Remove from the history", close(() => actions.remove(event)))] : [];
}

$("item-close").addEventListener("click", () => $("item").close());

// Ask what is meant by an unknown user id; return an id, or null if the question was closed.
export async function askForUser(id) {
  const { users, similar } = await fetchJson(`/v1/users?limit=3&contains=${idOf(id)}`);
  const dialog = $("unknown");
  return new Promise((done) => {
    let answer = null;
    const choose = (chosen) => () => { answer = chosen; dialog.close(); };
    const known = [...users, ...similar];
    $("unknown-title").textContent = `There is no user “${id}”.`;
    $("unknown-text").textContent = known.length ? "Did you mean one of these?" : "No known user has a similar id.";
    $("unknown-buttons").replaceChildren(
      ...known.map((one) => button(one, choose(one))),
      button("Start as a new user", choose(id), { className: "primary" }),
    );
    dialog.addEventListener("close", () => done(answer), { once: true });
    dialog.showModal();
  });
}

$("unknown-close").addEventListener("click", () => $("unknown").close());

export function closeDialogs() {
  for (const id of ["item", "unknown"]) $(id).close();
}
