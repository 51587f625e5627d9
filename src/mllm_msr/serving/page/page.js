// The page: a user's history, the preference along it, what it leads to, and how that moves.
// Talks to the service that served it and to nobody else. Whatever came from a model or from
// the catalogue is put on the page as text, never as markup.

const LENGTH = 8; // items of a list
const BUDGET = 20; // candidates that the model ranks for it
const PATIENCE = 20_000; // milliseconds that a new preference is waited for

const REASONS = {
  unknown_user: "Nothing is known of this user yet: these items are popular at the moment. Like some to begin.",
  no_history: "There is no history yet: these items are popular at the moment.",
  no_preference: "The preference is still being written: this list is the generators' own.",
  model_failed: "The model has failed: this list is the generators' own.",
  model_slow: "The model did not answer in time: this list is the generators' own.",
  model_circuit_open: "The model is left alone for a moment after failures: this list is the generators' own.",
};
const NAMES = {
  run: "Fine-tuned model", bare: "The model", untuned: "Without fine-tuning", generators: "The generators alone",
};

const $ = (id) => document.getElementById(id);
const items = new Map(); // what the service has said of items, by id
const liked = new Set(); // liked on this page since the user was chosen
let before = null; // the newest preference as it was before the last like
let key = "";
let models = [];
let user = null; // {id, history, preference_history, updating, failure}
let shown = { run: [], other: [] }; // lists as they stand on the page
let turn = 0; // counts choices of a user and likes: answers for an earlier one come too late

// ---- the service

class Problem extends Error {}

async function ask(path, body) {
  const headers = { ...(key && { "X-API-Key": key }), ...(body && { "Content-Type": "application/json" }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) {
    await askForKey();
    return ask(path, body);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Problem(told.detail ?? `The service answers ${answer.status}.`);
  }
  return answer;
}

const json = async (path, body) => (await ask(path, body)).json();
const idOf = (id) => encodeURIComponent(id);

function askForKey() {
  const dialog = $("ask-key");
  return new Promise((done) => {
    dialog.addEventListener("close", () => { key = $("key").value.trim(); $("key").value = ""; done(); }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

async function learn(ids) {
  const unknown = [...new Set(ids)].filter((id) => !items.has(id));
  for (let at = 0; at < unknown.length; at += 100) {
    const query = unknown.slice(at, at + 100).map((id) => `item_id=${idOf(id)}`).join("&");
    for (const item of (await json(`/v1/items?${query}`)).items) items.set(item.item_id, item);
  }
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");
}

// ---- pieces of the page

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function cover(id) {
  const item = items.get(id);
  const title = item?.title ?? id;
  if (!item?.image) return element("div", { className: "cover", ariaHidden: "true" }, title.slice(0, 1));
  const image = element("img", { className: "cover", alt: "", width: 160, height: 160, title: item.summary });
  const path = `/v1/items/${idOf(id)}/image`;
  if (!key) image.src = path;
  else ask(path).then(async (answer) => { image.src = URL.createObjectURL(await answer.blob()); });
  return image;
}

const words = (text) => text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) ?? [];

// Places of the words of `after` that are not in the longest common sequence with `before`.
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

// Places of the words that phrases of an explanation consist of.
function phraseWords(all, phrases) {
  const places = all.flatMap((word, at) => (/[\p{L}\p{N}]/u.test(word) ? [at] : []));
  const found = new Set();
  for (const phrase of phrases) {
    const wanted = phrase.toLowerCase().split(" ");
    for (let at = 0; at + wanted.length <= places.length; at++) {
      if (wanted.every((word, n) => all[places[at + n]].toLowerCase() === word)) {
        for (let place = places[at]; place <= places[at + wanted.length - 1]; place++) found.add(place);
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
  $("read").textContent = n ? `${n} item${n === 1 ? "" : "s"}, the newest last` : "empty";
  const edge = [...$("history").querySelectorAll(".block")].at(-1) ?? $("history").lastElementChild;
  if (edge) $("history").scrollLeft = edge.offsetLeft + edge.offsetWidth + 8 - $("history").clientWidth;
}

function drawPreference(phrases = []) {
  const at = Number($("step").value);
  const step = user.preference_history[at];
  const text = words(step?.preference ?? "");
  const earlier = (isNewest() ? before : null) ?? user.preference_history[at - 1]?.preference;
  const fresh = earlier ? newWords(words(earlier), text) : new Set();
  const hits = phraseWords(text, phrases);
  const spans = text.map((word, place) => {
    const isNew = fresh.has(place) && word.trim() !== "";
    if (hits.has(place)) return element("mark", { className: isNew ? "hit new" : "hit" }, word);
    return isNew ? element("ins", { className: "new" }, word) : word;
  });
  $("preference").replaceChildren(...(spans.length ? spans : [element("span", { className: "quiet" }, "Nothing has been written yet.")]));
}

function drawTrail() {
  const at = Number($("step").value);
  const n = user.preference_history.length;
  $("preference_history").hidden = n === 0;
  $("earlier").disabled = at === 0;
  $("later").disabled = at >= n - 1;
  const failed = user.preference_history[at]?.flags.includes("failed");
  const told = n ? `after ${user.preference_history[at].n_items} of ${user.history.length} items${failed ? ", of which the last block has no answer" : ""}` : "";
  $("moment").textContent = told;
  $("step").setAttribute("aria-valuetext", told);
}

function drawUser() {
  drawHistory();
  drawPreference();
  drawTrail();
}

function goTo(step) {
  $("step").value = String(step);
  drawUser();
}

// ---- lists

function drawList(place, list, earlier, marked) {
  const ranks = new Map(earlier.map((item, at) => [item.item_id, at + 1]));
  $(place).replaceChildren(...list.map((item) => {
    const was = ranks.get(item.item_id);
    const moved = was === undefined ? "new" : was > item.rank ? `↑ ${was - item.rank}` : was < item.rank ? `↓ ${item.rank - was}` : "";
    const mark = marked && moved ? [element("span", { className: "mark" }, moved)] : [];
    const row = element("li", { className: marked && was === undefined ? "fresh" : "" });
    row.dataset.item = item.item_id;
    const about = element("div", {}, element("span", { className: "title" }, item.title), ...mark, ...chance(item));
    const phrases = item.explanation ?? [];
    if (phrases.length) about.append(element("div", { className: "answers" }, "answers", ...phrases.map((one) => element("b", {}, one))));
    const button = element("button", { type: "button", className: "like", ariaLabel: `Like ${item.title}` }, "♥", element("span", {}, " Like"));
    button.addEventListener("click", () => tell(like(item)));
    for (const [on, shownPhrases] of [["pointerenter", phrases], ["focusin", phrases], ["pointerleave", []], ["focusout", []]]) {
      row.addEventListener(on, () => { if (isNewest()) drawPreference(shownPhrases); });
    }
    row.append(element("span", { className: "rank" }, String(item.rank)), cover(item.item_id), about, button);
    return row;
  }));
}

function chance(item) {
  if (item.score === null) return [element("div", { className: "chance" }, `proposed by ${item.generators.join(", ")}`)];
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  bar.style.setProperty("--share", item.score.toFixed(4));
  const percent = item.score >= 0.9995 ? "> 99.9 %" : item.score < 0.0005 ? "< 0.1 %" : `${(100 * item.score).toFixed(1)} %`;
  return [element("div", { className: "chance" }, bar, element("span", { ariaLabel: `probability ${percent}` }, percent))];
}

const isNewest = () => Number($("step").value) === user.preference_history.length - 1;

async function fetchList(model) {
  const budget = model === "generators" ? 0 : BUDGET;
  const body = { user_id: user.id, k: LENGTH, budget, model: model === "untuned" ? "untuned" : "run" };
  const found = await json("/v1/recommendations", body);
  await learn(found.items.map((item) => item.item_id));
  return found;
}

// Fetch the lists and show them; `marked` shows what is new in them. Returns how many items are.
async function refreshLists({ marked = false } = {}) {
  const asked = turn;
  const compared = $("compare").value;
  const [own, other] = await Promise.all([fetchList("run"), compared ? fetchList(compared) : null]);
  if (asked !== turn) return 0;
  $("reason").hidden = !own.fallback_reason;
  $("reason").textContent = REASONS[own.fallback_reason] ?? own.fallback_reason ?? "";
  $("note").textContent = noteOn(own.items);
  const earlier = shown;
  drawList("list", own.items, earlier.run, marked);
  if (other) drawList("other-list", other.items, marked ? earlier.other : own.items, true);
  $("other").hidden = $("own-name").hidden = !other;
  document.body.classList.toggle("two", Boolean(other));
  drawHistory(); // in what room the lists leave it
  $("own-name").textContent = NAMES[models[0]?.fine_tuned ? "run" : "bare"];
  $("other-name").textContent = `${NAMES[compared] ?? ""}${marked ? "" : ", and what it moves"}`;
  shown = { run: own.items, other: other?.items ?? [] };
  const known = new Set(earlier.run.map((item) => item.item_id));
  return own.items.filter((item) => !known.has(item.item_id)).length;
}

function noteOn(list) {
  const scores = list.map((item) => item.score).filter((score) => score !== null);
  if (!scores.length) return "";
  const descending = scores.every((score, at) => at === 0 || score <= scores[at - 1]);
  const bar = "The bar is the model's probability that the item comes next";
  return descending ? `${bar}.` : `${bar}; the order also counts how strongly the generators propose it.`;
}

// ---- what one does

async function readUser() {
  const asked = turn;
  const found = await json(`/v1/users/${idOf(user.id)}/preference`);
  await learn(found.history);
  if (asked !== turn) return;
  user = { ...user, history: found.history, preference_history: found.preference_history, updating: found.updating, failure: found.failure };
  $("step").max = String(Math.max(user.preference_history.length - 1, 0));
  goTo(user.preference_history.length - 1);
}

// Wait while a newer preference is being written; true if one came.
async function settle() {
  const asked = turn;
  const read = user.preference_history.at(-1)?.n_items;
  const end = Date.now() + PATIENCE;
  while (user.updating && !user.failure && asked === turn && Date.now() < end) {
    await new Promise((done) => { setTimeout(done, 250); });
    const found = await json(`/v1/users/${idOf(user.id)}/preference`);
    if (asked === turn) user = { ...user, updating: found.updating, failure: found.failure };
  }
  if (asked !== turn) return false;
  await readUser();
  return user.preference_history.at(-1)?.n_items !== read;
}

async function choose(id, known) {
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
  const asked = turn;
  await refreshLists();
  if (!known || asked !== turn) return;
  await readUser(); // asking for a list may have begun an update
  if (user.updating && await settle()) await refreshLists({ marked: true });
}

async function like(item) {
  turn += 1; // a list that is still on its way must not be drawn first: it may know of this already
  const asked = turn;
  const buttons = [...document.querySelectorAll(".like")];
  for (const button of buttons) button.disabled = true;
  const place = item.rank - 1;
  try {
    await json("/v1/events", { events: [{ event_id: newId(), user_id: user.id, item_id: item.item_id, timestamp: Date.now() }] });
    liked.add(item.item_id);
    before = user.preference_history.at(-1)?.preference ?? null;
    say(`Liked “${item.title}”. The preference reads it …`);
    await readUser();
    const changed = await settle();
    const n = await refreshLists({ marked: true });
    if (asked !== turn) return;
    const list = n === 1 ? "1 item of the list is new" : `${n} items of the list are new`;
    const same = user.preference_history.at(-1)?.preference === before ? ", and its words are the same" : " and has changed";
    if (user.failure) say(`“${item.title}” is in the history; the model has no usable answer for it yet and is asked again. ${list[0].toUpperCase()}${list.slice(1)}.`);
    else say(changed ? `The preference has read “${item.title}”${same}; ${list}.`
      : `“${item.title}” is in the history; the preference follows when its block is full. ${list[0].toUpperCase()}${list.slice(1)}.`);
  } finally {
    for (const button of buttons) button.disabled = false;
    // Whoever works by keyboard goes on where he was.
    if (asked === turn) $("list").querySelectorAll(".like")[Math.min(place, LENGTH - 1)]?.focus({ preventScroll: true });
  }
}

let fading;
function say(text) {
  $("status").textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { $("status").textContent = ""; }, 7000);
}

const tell = (work) => work.catch((error) => {
  if (!(error instanceof Problem)) console.error(error);
  say(error instanceof Problem ? error.message : "The service cannot be reached.");
});

async function offer() {
  const wanted = $("user").value.trim();
  const found = await json(`/v1/users?limit=100&contains=${idOf(wanted)}`);
  $("users").replaceChildren(...found.users.map((id) => element("option", { value: id })));
  const total = found.total.toLocaleString("en");
  $("matches").textContent = wanted ? `${total} match${found.total === 1 ? "es" : ""}` : `${total} users`;
  return found.users;
}

async function openUser(id) {
  const found = await json(`/v1/users?limit=200&contains=${idOf(id)}`);
  await choose(id, found.users.includes(id));
}

async function start() {
  models = (await json("/v1/models")).models;
  const ready = await json("/readyz");
  $("facts").textContent = `${ready.items.toLocaleString("en")} items · model ${models[0].version}`;
  if (models.some((model) => model.name === "untuned")) {
    $("compare").append(element("option", { value: "untuned" }, "the model without fine-tuning"));
  }
  const users = await offer();
  const asked = decodeURIComponent(location.hash.slice(1));
  if (asked) await openUser(asked);
  else if (users.length) await choose(users[0], true);
  else await choose(`visitor-${newId().slice(0, 6)}`, false);
}

$("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("user").value.trim();
  if (id) tell(openUser(id));
});
$("user").addEventListener("input", () => tell(offer()));
$("user").addEventListener("focus", () => { $("user").select(); });
$("visitor").addEventListener("click", () => tell(choose(`visitor-${newId().slice(0, 6)}`, false)));
$("step").addEventListener("input", drawUser);
$("earlier").addEventListener("click", () => goTo(Number($("step").value) - 1));
$("later").addEventListener("click", () => goTo(Number($("step").value) + 1));
$("compare").addEventListener("change", () => tell(refreshLists()));
tell(start());
