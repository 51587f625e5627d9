// Start of the page: which user is shown, and what a like, a dislike and their undoing change.

import { ServiceError, fetchJson, hasKey, idOf, newId } from "/page/api.js";
import { askForUser, closeDialogs, onItemAction, openItem } from "/page/dialogs.js";
import { $, clearProblem, element, loadItems, say, showProblem, titleOf } from "/page/elements.js";
import { drawLoadingList, fillMenus, onAction, refreshLists } from "/page/lists.js";
import { drawLoading, drawNext, drawUser, flash, goTo, onOpen, scrollToRead, showLatestItem } from "/page/profile.js";
import { emptyUser, isLatest, latestPreference, state, step } from "/page/state.js";

const UPDATE_TIMEOUT = 60_000; // milliseconds to wait for a new preference
const POLL = 400; // milliseconds between questions whether it is there
const LENGTH = 8; // items per list at first
const SEARCH_DELAY = 150; // milliseconds after a key

const newUsers = new Set(); // ids that were started as new users
const wait = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// ---- the user

// Read the user; an earlier preference that is shown stays there. Return false if the user is unknown.
async function readUser() {
  const started = state.turn;
  const { id } = state.user;
  if (newUsers.has(id)) {
    state.user = emptyUser(id);
    goTo(0);
    return true;
  }
  let found;
  try {
    found = await fetchJson(`/v1/users/${idOf(id)}/preference`);
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
  await loadItems([...found.history, ...found.dislikes]);
  if (started !== state.turn) return true;
  const { preference_history: known } = state.user;
  const earlier = known.length && !isLatest() ? step() : null;
  state.user = { id, ...found };
  goTo(earlier ?? found.preference_history.length - 1);
  return true;
}

const nRead = () => state.user.preference_history.at(-1)?.n_items;

// Read the user, and wait while a newer preference is being generated; return whether there is one.
async function readUpdatedUser() {
  const started = state.turn;
  const read = nRead();
  await readUser();
  const end = Date.now() + UPDATE_TIMEOUT;
  let waited = false;
  while (state.user.updating && !state.user.failure && Date.now() < end) {
    await wait(POLL);
    if (started !== state.turn) return false;
    const { updating, failure } = await fetchJson(`/v1/users/${idOf(state.user.id)}/preference`);
    if (started !== state.turn) return false;
    state.user = { ...state.user, updating, failure };
    drawNext();
    waited = true;
  }
  if (started !== state.turn || state.user.updating) return false; // it failed, or takes too long
  if (waited) await readUser();
  return started === state.turn && nRead() !== read;
}

// Show a user; if reading fails, the problem stays until trying again succeeds.
async function showUser(id, attempt = 0) {
  const started = ++state.turn;
  state.liked.clear();
  state.pending = state.before = null;
  state.shown = { own: [], other: [], reason: null };
  state.n = LENGTH;
  state.user = emptyUser(id);
  $("user").value = id;
  document.title = `${id} · Recommendations · MLLM-MSR`;
  $("profile").setAttribute("aria-busy", "true");
  $("lists").setAttribute("aria-busy", "true");
  clearProblem($("problem"));
  clearProblem($("list-problem"));
  drawLoading();
  drawLoadingList();
  say(`Loading ${id} …`);
  try {
    const known = await readUser();
    if (started !== state.turn) return;
    if (!known) { await resolveUnknown(id); return; }
    goTo(state.user.preference_history.length - 1);
    scrollToRead();
  } catch (error) {
    if (started !== state.turn) return;
    say("");
    showProblem($("problem"), error, (next) => showUser(id, next), attempt);
    return;
  } finally {
    if (started === state.turn) $("profile").removeAttribute("aria-busy");
  }
  await showLists();
}

// Request the lists, which may start an update of the preference, and wait for it.
async function showLists(attempt = 0) {
  const started = state.turn;
  clearProblem($("list-problem"));
  try {
    if (await refreshLists() === null) return;
    say(`Showing ${state.user.id}.`);
    scrollToRead(); // again, because the lists change the width of the history
    if (!state.user.history.length) return;
    if (await readUpdatedUser()) {
      await refreshLists({ marked: true });
      scrollToRead(); // the preference includes more items
    }
  } catch (error) {
    if (started === state.turn) failLists(error, showLists, attempt);
  }
}

function failLists(error, retry, attempt = 0) {
  say("");
  for (const one of document.querySelectorAll(".list .skeleton")) one.remove();
  showProblem($("list-problem"), error, retry, attempt);
}

async function resolveUnknown(id) {
  const answer = await askForUser(id);
  if (answer === id) {
    newUsers.add(id);
    await showUser(id);
  } else if (answer) go(answer);
  else if (previous && previous !== id) go(previous);
  else say(`There is no user ${id}.`);
}

// ---- changes

const newEvent = (item, type) => ({ event_id: newId(), user_id: state.user.id, item_id: item.item_id, timestamp: Date.now(), type });

const rowOf = (item) => `[data-item="${CSS.escape(item.item_id)}"]`;

// Send an event of an item in a list. A failure is shown in its row; trying again sends the same
// event, so that it counts once even if only its response was lost.
async function change(item, event, { shown, done }) {
  if (document.querySelector(`${rowOf(item)}[aria-busy]`)) return; // it is being sent
  state.turn += 1; // ignore lists that were requested before
  // Disabled buttons would lose the focus.
  for (const row of document.querySelectorAll(rowOf(item))) row.setAttribute("aria-busy", "true");
  const problem = document.querySelector(`${rowOf(item)} .problem`);
  if (problem) clearProblem(problem);
  shown?.();
  try {
    await fetchJson("/v1/events", { method: "POST", body: { events: [event] } });
  } catch (error) {
    state.pending = null;
    drawUser();
    say("");
    for (const row of document.querySelectorAll(rowOf(item))) row.removeAttribute("aria-busy");
    const retry = () => change(item, event, { shown, done });
    showProblem(problem ?? $("list-problem"), new ServiceError(`Not stored. ${error.message}`), retry);
    return;
  }
  newUsers.delete(event.user_id);
  await done(event);
}

const like = (item) => change(item, newEvent(item, "interaction"), {
  shown: () => {
    state.before = latestPreference();
    state.pending = item.item_id;
    goTo(state.user.preference_history.length - 1); // shows what the like changes
    showLatestItem();
    say(`Liking “${item.title}” …`);
  },
  done: async (event) => {
    state.pending = null;
    state.liked.add(item.item_id);
    say(`Liked “${item.title}”.`, () => undo(event, item));
    await refreshAfter(async (updated) => {
      const changed = latestPreference() !== state.before;
      const n = await refreshLists({ marked: true });
      if (n === null) return;
      const list = n === 1 ? "1 item in the list is new" : `${n} items in the list are new`;
      const effect = !updated ? "" : changed ? " The preference has changed;" : " The preference keeps its text;";
      say(`Liked “${item.title}”.${effect} ${list}.`, () => undo(event, item));
    });
  },
});

const dislike = (item) => change(item, newEvent(item, "dislike"), {
  done: async (event) => {
    const text = `“${item.title}” is hidden from your lists.`;
    say(text, () => undo(event, item));
    await refreshAfter(async () => { await refreshLists({ marked: true }); });
  },
});

// Read the user after a change, wait for the update it may have started, and show the new lists.
async function refreshAfter(finish) {
  const started = state.turn;
  try {
    const updated = await readUpdatedUser();
    if (started !== state.turn) return;
    if (updated) flash();
    await finish(updated);
    showLatestChange();
  } catch (error) {
    if (started === state.turn) failLists(error, () => refreshAfter(finish));
  }
}

function showLatestChange() {
  if (state.liked.has(state.user.history.at(-1))) showLatestItem();
}

// Remove an event. The preferences that were inferred from it are removed and inferred again.
async function undo(event, item) {
  state.turn += 1;
  try {
    await fetchJson(`/v1/events?user_id=${idOf(state.user.id)}&event_id=${idOf(event.event_id)}`, { method: "DELETE" });
  } catch (error) {
    failLists(error, () => undo(event, item));
    return;
  }
  state.liked.delete(item.item_id);
  state.before = null;
  const own = state.user.events.filter((one) => one.type === "interaction").length;
  if (state.user.events.length === 1 && state.user.history.length === own) newUsers.add(state.user.id); // nothing is left
  say(`Undone: “${item.title ?? titleOf(item.item_id)}”.`);
  await refreshAfter(async () => { await refreshLists({ marked: true }); });
}

async function showAgain(id) {
  const events = state.user.events.filter((one) => one.item_id === id && one.type === "dislike");
  for (const event of events) await undo(event, { item_id: id });
}

async function updateNow() {
  state.turn += 1;
  state.before = latestPreference();
  const started = state.turn;
  try {
    const { updating } = await fetchJson(`/v1/users/${idOf(state.user.id)}/preference`, { method: "POST" });
    state.user = { ...state.user, updating };
    drawNext();
    if (!updating) say("The model is paused after repeated failures. Try again in a moment.");
    await refreshAfter(async (updated) => {
      const n = await refreshLists({ marked: true });
      if (updated && n !== null) say(`The preference includes all ${state.user.history.length} items; ${n} in the list are new.`);
    });
  } catch (error) {
    if (started === state.turn) failLists(error, updateNow);
  }
}

// ---- address and search

let previous = null; // the user who was shown before

const idInAddress = () => decodeURIComponent(location.hash.slice(1));

// Show a user by their address, so that the browser's Back returns to the user before.
function go(id) {
  if (id === idInAddress()) route();
  else location.hash = idOf(id);
}

function route() {
  closeDialogs();
  const id = idInAddress();
  if (!id) return;
  previous = state.user?.history.length ? state.user.id : previous;
  showUser(id);
}

async function suggestUsers() {
  const wanted = $("user").value.trim();
  const found = await fetchJson(`/v1/users?limit=100&contains=${idOf(wanted)}`);
  if (wanted !== $("user").value.trim()) return found.users;
  $("users").replaceChildren(...found.users.map((id) => element("option", { value: id })));
  const total = found.total.toLocaleString("en");
  $("matches").textContent = wanted ? `${total} match${found.total === 1 ? "" : "es"}` : `${total} users`;
  return found.users;
}

function newUser() {
  const id = `new-${newId().slice(0, 6)}`;
  newUsers.add(id);
  go(id);
}

async function start(attempt = 0) {
  let users;
  try {
    [state.run, { models: state.models }, users] = await Promise.all([fetchJson("/v1/run"), fetchJson("/v1/models"), suggestUsers()]);
  } catch (error) {
    drawLoading();
    showProblem($("problem"), error, start, attempt);
    return;
  }
  const { run } = state;
  $("facts").textContent = `${run.name} · ${run.items.toLocaleString("en")} items · model ${run.model} (${run.version.slice(0, 6)})`;
  $("report-link").hidden = !run.report || hasKey(); // a link cannot send a key
  $("metrics-link").hidden = hasKey();
  fillMenus();
  addEventListener("hashchange", route);
  if (idInAddress()) route();
  else if (users.length) { history.replaceState(null, "", `#${idOf(users[0])}`); route(); }
  else newUser();
}

let searching;
function search() {
  clearTimeout(searching);
  searching = setTimeout(async () => {
    const users = await suggestUsers().catch(() => []);
    const id = $("user").value.trim();
    if (users.length === 1 && users[0] === id && id !== state.user?.id) go(id); // a complete id
  }, SEARCH_DELAY);
}

$("select-user").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("user").value.trim();
  if (id) go(id);
});
$("user").addEventListener("input", (event) => {
  // Browsers report a choice from the suggestions as a replacement, or without a type.
  const isChoice = !event.inputType || event.inputType === "insertReplacementText";
  const id = $("user").value.trim();
  if (isChoice && [...$("users").options].some((option) => option.value === id)) go(id);
  else search();
});
$("user").addEventListener("focus", () => { $("user").select(); });
$("new-user").addEventListener("click", newUser);
$("step").addEventListener("input", drawUser);
$("earlier").addEventListener("click", () => goTo(step() - 1));
$("later").addEventListener("click", () => goTo(step() + 1));
$("update-now").addEventListener("click", updateNow);
$("model").addEventListener("change", () => showLists());
$("compare").addEventListener("change", () => showLists());
$("more").addEventListener("click", () => { state.n += LENGTH; showLists(); });
onOpen(openItem);
onAction({ like, dislike, open: openItem, showAgain, showLists: () => showLists() });
onItemAction({ like, dislike, remove: (event) => undo(event, { item_id: event.item_id }) });
start();
