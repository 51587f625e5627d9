// Shows the history, preference and recommendations of a user, and how a like changes them. The
// page only sends requests to the service that served it. Text from a model or from the catalog is
// inserted as text, never as markup.

const LENGTH = 8; // items per list
const BUDGET = 20; // candidates that the model scores per list
const UPDATE_TIMEOUT = 20_000; // milliseconds to wait for a new preference

const REASONS = {
  unknown_user: "New user: these items are currently popular. Like some of them to start.",
  no_history: "No history yet: these items are currently popular.",
  no_preference: "The preference is still being generated. Retrieval only.",
  model_failed: "The model failed. Retrieval only.",
  model_slow: "The model did not respond in time. Retrieval only.",
  model_circuit_open: "The model is paused after repeated failures. Retrieval only.",
};
const NAMES = { run: "Fine-tuned", zero_shot: "Zero-shot", retrieval: "Retrieval only" };

const $ = (id) => document.getElementById(id);
const items = new Map(); // items from the service, by id
const liked = new Set(); // items liked since the user was selected
let before = null; // the latest preference before the last like
let key = "";
let models = [];
let user = null; // {id, history, preference_history, updating, failure}
let shown = { run: [], other: [] }; // the lists on the page
let turn = 0; // incremented by each selection and like; responses of earlier turns are ignored

// ---- the service

class ServiceError extends Error {}

async function request(path, body) {
  const headers = { ...(key && { "X-API-Key": key }), ...(body && { "Content-Type": "application/json" }) };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (response.status === 401) {
    await askForKey();
    return request(path, body);
  }
  if (!response.ok) {
    const error = await response.json().catch(() => ({}));
    throw new ServiceError(error.detail ?? `The service returned status ${response.status}.`);
  }
  return response;
}

const fetchJson = async (path, body) => (await request(path, body)).json();
const idOf = (id) => encodeURIComponent(id);

function askForKey() {
  const dialog = $("ask-key");
  return new Promise((done) => {
    dialog.addEventListener("close", () => { key = $("key").value.trim(); $("key").value = ""; done(); }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

async function loadItems(ids) {
  const unknown = [...new Set(ids)].filter((id) => !items.has(id));
  for (let at = 0; at < unknown.length; at += 100) {
    const query = unknown.slice(at, at + 100).map((id) => `item_id=${idOf(id)}`).join("&");
    for (const item of (await fetchJson(`/v1/items?${query}`)).items) items.set(item.item_id, item);
  }
}

const newUserId = () => `new-${newId().slice(0, 6)}`;

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");
}

// ---- elements

function element(name, properties = {}, ...children) {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children);
  return created;
}

function cover(id) {
  const item = items.get(id);
  const title = item?.title ?? id;
  if (!item?.image) return element("div", { className: "cover", ariaHidden: "true" }, title.slice(0, 1));
  const image = element("img", { className: "cover", alt: "", width: 160, height: 160, title: item.summary });
  const path = `/v1/items/${idOf(id)}/image`;
  if (!key) image.src = path;
  else request(path).then(async (response) => { image.src = URL.createObjectURL(await response.blob()); });
  return image;
}

const words = (text) => text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) ?? [];

// Return the indices of the words of `after` that are not in the longest common subsequence with `before`.
function newWords(before, after) {
  const length = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      length[i][j] = before[i] === after[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const fresh = new Set();
  for (let i = 0, j = 0; j < after.length;) {
    if (i < before.length && before[i] === after[j]) { i++; j++; }
    else if (i < before.length && length[i + 1][j] >= length[i][j + 1]) i++;
    else fresh.add(j++);
  }
  return fresh;
}

// Return the indices of the words that belong to one of the phrases.
function phraseWords(all, phrases) {
  const indices = all.flatMap((word, at) => (/[\p{L}\p{N}]/u.test(word) ? [at] : []));
  const found = new Set();
  for (const phrase of phrases) {
    const wanted = phrase.toLowerCase().split(" ");
    for (let at = 0; at + wanted.length <= indices.length; at++) {
      if (wanted.every((word, n) => all[indices[at + n]].toLowerCase() === word)) {
        for (let index = indices[at]; index <= indices[at + wanted.length - 1]; index++) found.add(index);
      }
    }
  }
  return found;
}

// ---- history and preference

function drawHistory() {
  const step = user.preference_history[Number($("step").value)];
  const read = step?.n_items ?? 0;
  const readBefore = user.preference_history[Number($("step").value) - 1]?.n_items ?? 0;
  $("history").replaceChildren(...user.history.map((id, at) => {
    const states = [at >= read && "unread", at >= readBefore && at < read && "block", liked.has(id) && "added"];
    const title = element("div", { className: "title" }, items.get(id)?.title ?? id);
    return element("li", { className: states.filter(Boolean).join(" ") }, cover(id), title);
  }));
  const n = user.history.length;
  $("read").textContent = n ? `${n} item${n === 1 ? "" : "s"}, latest last` : "empty";
  const edge = [...$("history").querySelectorAll(".block")].at(-1) ?? $("history").lastElementChild;
  if (edge) $("history").scrollLeft = edge.offsetLeft + edge.offsetWidth + 8 - $("history").clientWidth;
}

function drawPreference(phrases = []) {
  const at = Number($("step").value);
  const step = user.preference_history[at];
  const text = words(step?.preference ?? "");
  const earlier = (isLatest() ? before : null) ?? user.preference_history[at - 1]?.preference;
  const fresh = earlier ? newWords(words(earlier), text) : new Set();
  const hits = phraseWords(text, phrases);
  const spans = text.map((word, index) => {
    const isNew = fresh.has(index) && word.trim() !== "";
    if (hits.has(index)) return element("mark", { className: isNew ? "hit new" : "hit" }, word);
    return isNew ? element("ins", { className: "new" }, word) : word;
  });
  $("preference").replaceChildren(...(spans.length ? spans : [element("span", { className: "quiet" }, "There is no preference yet.")]));
}

function drawProgress() {
  const at = Number($("step").value);
  const n = user.preference_history.length;
  $("preference-history").hidden = n === 0;
  $("earlier").disabled = at === 0;
  $("later").disabled = at >= n - 1;
  const failed = user.preference_history[at]?.flags.includes("failed");
  const text = n ? `after ${user.preference_history[at].n_items} of ${user.history.length} items${failed ? "; the last block failed" : ""}` : "";
  $("progress").textContent = text;
  $("step").setAttribute("aria-valuetext", text);
}

function drawUser() {
  drawHistory();
  drawPreference();
  drawProgress();
}

function goTo(step) {
  $("step").value = String(step);
  drawUser();
}

// ---- lists

function drawList(target, list, earlier, marked) {
  const ranks = new Map(earlier.map((item, at) => [item.item_id, at + 1]));
  $(target).replaceChildren(...list.map((item) => {
    const was = ranks.get(item.item_id);
    const moved = was === undefined ? "new" : was > item.rank ? `↑ ${was - item.rank}` : was < item.rank ? `↓ ${item.rank - was}` : "";
    const mark = marked && moved ? [element("span", { className: "mark" }, moved)] : [];
    const row = element("li", { className: marked && was === undefined ? "fresh" : "" });
    row.dataset.item = item.item_id;
    const about = element("div", {}, element("span", { className: "title" }, item.title), ...mark, ...scoreOf(item));
    const phrases = item.matches ?? [];
    if (phrases.length) about.append(element("div", { className: "matches" }, "matches", ...phrases.map((one) => element("b", {}, one))));
    const button = element("button", { type: "button", className: "like", ariaLabel: `Like ${item.title}` }, "♥", element("span", {}, " Like"));
    button.addEventListener("click", () => showErrors(like(item)));
    for (const [on, shownPhrases] of [["pointerenter", phrases], ["focusin", phrases], ["pointerleave", []], ["focusout", []]]) {
      row.addEventListener(on, () => { if (isLatest()) drawPreference(shownPhrases); });
    }
    row.append(element("span", { className: "rank" }, String(item.rank)), cover(item.item_id), about, button);
    return row;
  }));
}

function scoreOf(item) {
  if (item.score === null) {
    const failed = item.reason === "scoring_failed" ? "The model gave no score; " : "";
    return [element("div", { className: "score" }, `${failed}retrieved by ${item.generators.join(", ")}`)];
  }
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  bar.style.setProperty("--share", item.score.toFixed(4));
  const percent = item.score >= 0.9995 ? "> 99.9 %" : item.score < 0.0005 ? "< 0.1 %" : `${(100 * item.score).toFixed(1)} %`;
  return [element("div", { className: "score" }, bar, element("span", { ariaLabel: `probability ${percent}` }, percent))];
}

const isLatest = () => Number($("step").value) === user.preference_history.length - 1;

async function fetchList(model) {
  const budget = model === "retrieval" ? 0 : BUDGET;
  const body = { user_id: user.id, k: LENGTH, budget, model: model === "zero_shot" ? "zero_shot" : "run" };
  const found = await fetchJson("/v1/recommendations", body);
  await loadItems(found.items.map((item) => item.item_id));
  return found;
}

// Fetch and show the lists; `marked` highlights changes. Return the number of new items.
async function refreshLists({ marked = false } = {}) {
  const started = turn;
  const compared = $("compare").value;
  const [own, other] = await Promise.all([fetchList("run"), compared ? fetchList(compared) : null]);
  if (started !== turn) return 0;
  $("reason").hidden = !own.fallback_reason;
  $("reason").textContent = REASONS[own.fallback_reason] ?? own.fallback_reason ?? "";
  $("note").textContent = noteOn(own.items);
  const earlier = shown;
  drawList("list", own.items, earlier.run, marked);
  if (other) drawList("other-list", other.items, marked ? earlier.other : own.items, true);
  $("other").hidden = $("own-name").hidden = !other;
  document.body.classList.toggle("two", Boolean(other));
  drawHistory(); // scrolls again, because the lists change the width of the history
  $("own-name").textContent = NAMES[models[0]?.fine_tuned ? "run" : "zero_shot"];
  $("other-name").textContent = `${NAMES[compared] ?? ""}${marked ? "" : ", compared with the first list"}`;
  shown = { run: own.items, other: other?.items ?? [] };
  const known = new Set(earlier.run.map((item) => item.item_id));
  return own.items.filter((item) => !known.has(item.item_id)).length;
}

function noteOn(list) {
  const scores = list.map((item) => item.score).filter((score) => score !== null);
  if (!scores.length) return "";
  const descending = scores.every((score, at) => at === 0 || score <= scores[at - 1]);
  const bar = "The bar shows how strongly the model answers yes, not the chance that the item is next.";
  return descending ? bar : `${bar} The order also includes the retrieval rank.`;
}

// ---- actions

async function readUser() {
  const started = turn;
  const found = await fetchJson(`/v1/users/${idOf(user.id)}/preference`);
  await loadItems(found.history);
  if (started !== turn) return;
  // Whoever looks at an earlier preference stays there.
  const earlier = user.preference_history.length && !isLatest() ? Number($("step").value) : null;
  user = { ...user, history: found.history, preference_history: found.preference_history, updating: found.updating, failure: found.failure };
  $("step").max = String(Math.max(user.preference_history.length - 1, 0));
  goTo(earlier ?? user.preference_history.length - 1);
}

// Wait while a newer preference is being generated; return whether there is one.
async function waitForUpdate() {
  const started = turn;
  const read = user.preference_history.at(-1)?.n_items;
  const end = Date.now() + UPDATE_TIMEOUT;
  while (user.updating && !user.failure && started === turn && Date.now() < end) {
    await new Promise((done) => { setTimeout(done, 250); });
    const found = await fetchJson(`/v1/users/${idOf(user.id)}/preference`);
    if (started === turn) user = { ...user, updating: found.updating, failure: found.failure };
  }
  if (started !== turn) return false;
  await readUser();
  return user.preference_history.at(-1)?.n_items !== read;
}

async function selectUser(id, known) {
  turn += 1;
  liked.clear();
  before = null;
  shown = { run: [], other: [] };
  user = { id, history: [], preference_history: [], updating: false, failure: null };
  $("user").value = id;
  document.querySelector("main").hidden = false;
  history.replaceState(null, "", `#${idOf(id)}`);
  say(`Showing ${id}.`);
  if (known) await readUser();
  else goTo(0);
  const started = turn;
  await refreshLists();
  if (!known || started !== turn) return;
  await readUser(); // requesting a list may have started an update
  if (user.updating && await waitForUpdate()) await refreshLists({ marked: true });
}

async function like(item) {
  turn += 1; // ignore lists that were requested before this like
  const started = turn;
  const buttons = [...document.querySelectorAll(".like")];
  for (const button of buttons) button.disabled = true;
  const position = item.rank - 1;
  try {
    await fetchJson("/v1/events", { events: [{ event_id: newId(), user_id: user.id, item_id: item.item_id, timestamp: Date.now() }] });
    liked.add(item.item_id);
    before = user.preference_history.at(-1)?.preference ?? null;
    say(`Liked “${item.title}”. Updating the preference …`);
    goTo(user.preference_history.length - 1); // shows what the like changes
    await readUser();
    const changed = await waitForUpdate();
    const n = await refreshLists({ marked: true });
    if (started !== turn) return;
    const list = n === 1 ? "1 item in the list is new" : `${n} items in the list are new`;
    const same = user.preference_history.at(-1)?.preference === before ? "its text is unchanged" : "its text has changed";
    if (user.failure) say(`“${item.title}” is in the history; the model has not returned a usable preference yet and is retried. ${list}.`);
    else say(changed ? `The preference now includes “${item.title}”; ${same}. ${list}.`
      : `“${item.title}” is in the history; the preference is updated when the block is full. ${list}.`);
  } finally {
    for (const button of buttons) button.disabled = false;
    // Keep the focus of keyboard users.
    if (started === turn) $("list").querySelectorAll(".like")[Math.min(position, LENGTH - 1)]?.focus({ preventScroll: true });
  }
}

let fading;
function say(text) {
  $("status").textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { $("status").textContent = ""; }, 7000);
}

const showErrors = (work) => work.catch((error) => {
  if (!(error instanceof ServiceError)) console.error(error);
  say(error instanceof ServiceError ? error.message : "The service is not reachable.");
});

async function suggestUsers() {
  const wanted = $("user").value.trim();
  const found = await fetchJson(`/v1/users?limit=100&contains=${idOf(wanted)}`);
  $("users").replaceChildren(...found.users.map((id) => element("option", { value: id })));
  const total = found.total.toLocaleString("en");
  $("matches").textContent = wanted ? `${total} match${found.total === 1 ? "es" : ""}` : `${total} users`;
  return found.users;
}

async function openUser(id) {
  const found = await fetchJson(`/v1/users?limit=200&contains=${idOf(id)}`);
  await selectUser(id, found.users.includes(id));
}

async function start() {
  models = (await fetchJson("/v1/models")).models;
  const ready = await fetchJson("/readyz");
  $("facts").textContent = `${ready.items.toLocaleString("en")} items · model ${models[0].version}`;
  if (models.some((model) => model.name === "zero_shot")) {
    $("compare").append(element("option", { value: "zero_shot" }, NAMES.zero_shot));
  }
  const users = await suggestUsers();
  const requested = decodeURIComponent(location.hash.slice(1));
  if (requested) await openUser(requested);
  else if (users.length) await selectUser(users[0], true);
  else await selectUser(newUserId(), false);
}

$("select-user").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("user").value.trim();
  if (id) showErrors(openUser(id));
});
$("user").addEventListener("input", () => showErrors(suggestUsers()));
$("user").addEventListener("focus", () => { $("user").select(); });
$("new-user").addEventListener("click", () => showErrors(selectUser(newUserId(), false)));
$("step").addEventListener("input", drawUser);
$("earlier").addEventListener("click", () => goTo(Number($("step").value) - 1));
$("later").addEventListener("click", () => goTo(Number($("step").value) + 1));
$("compare").addEventListener("change", () => showErrors(refreshLists()));
showErrors(start());
