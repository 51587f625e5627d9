// One list of recommendations, or two side by side, and how they differ.

import { fetchJson } from "/page/api.js";
import { $, button, cover, element, loadItems, skeleton, titleOf } from "/page/elements.js";
import { drawPreference } from "/page/profile.js";
import { isLatest, state } from "/page/state.js";

const NEW = "new";
const RETRIEVAL = "retrieval"; // the candidates in the order of the retriever

const REASONS = {
  unknown_user: "New user: these items are currently popular. Like some of them to start.",
  no_history: "No history yet: these items are currently popular.",
  no_preference: "The preference is still being generated. Retrieval only.",
  model_failed: "The model failed. Retrieval only.",
  model_slow: "The model did not respond in time. Retrieval only.",
  model_circuit_open: "The model is paused after repeated failures. Retrieval only.",
  no_scores: "The baseline does not know the items of the history. Retrieval only.",
};
// Reasons that may be gone when the same list is requested again.
const TEMPORARY = ["model_failed", "model_slow", "model_circuit_open"];
// Why the model was not asked about an item of a list that it has ranked.
const UNSCORED = {
  beyond_budget: "Not scored: it is not among the candidates that the model was to score.",
  not_needed: "Not scored: no further score was likely to change the list.",
};
const GENERATORS = { preference: "preference text", collaborative: "similar users", recent: "trending" };

let actions = {}; // like, dislike, open, showAgain and showLists

export const onAction = (given) => { actions = given; };

export const foundBy = (item) => item.generators.map((name) => GENERATORS[name] ?? nameOf(name)).join(", ");

export const whyUnscored = (item) => UNSCORED[item.reason] ?? "";

export const nameOf = (model) => (model === RETRIEVAL ? "Retrieval only" : state.models.find((one) => one.name === model)?.label ?? model);

// Fill the menus with all models; a list can be compared with any other.
export function fillMenus() {
  const names = [...state.models.map((model) => model.name), RETRIEVAL];
  const options = () => names.map((name) => element("option", { value: name }, nameOf(name)));
  $("model").replaceChildren(...options());
  $("compare").replaceChildren(element("option", { value: "" }, "None"), ...options());
}

// The match of an item says how strongly the model answers yes. It is the score of the service,
// P(yes) with the calibration of the run (`ranker/calibration.py`), in [0, 1].
export function matchText({ score: match }) {
  return match >= 0.995 ? "> 0.99" : match < 0.005 ? "< 0.01" : match.toFixed(2);
}

// Return how many ranks retrieval has moved each item, compared with the order by match alone.
export function movedByRetrieval(list) {
  const scored = list.filter((item) => item.score !== null);
  const byMatch = [...scored].sort((a, b) => b.score - a.score);
  return new Map(scored.map((item, at) => {
    // Equal matches are in no order.
    const first = byMatch.findIndex((one) => one.score === item.score);
    const last = byMatch.findLastIndex((one) => one.score === item.score);
    return [item.item_id, at < first ? first - at : at > last ? last - at : 0];
  }));
}

function scoreRow(item, moved) {
  if (item.score === null) {
    const failed = item.reason === "scoring_failed" ? "The model gave no score; " : "";
    const text = item.reason === "baseline" ? `ranked by ${nameOf(item.generators[0])}` : `${failed}found by ${foundBy(item)}`;
    return element("div", { className: "score", title: whyUnscored(item) }, text);
  }
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  bar.style.setProperty("--share", item.score.toFixed(4));
  const row = element("div", { className: "score" }, bar, element("span", {}, `match ${matchText(item)}`));
  if (moved) {
    const direction = moved > 0 ? "up" : "down";
    const title = `Retrieval moved this item ${direction} by ${Math.abs(moved)}, compared with the order by match alone.`;
    row.append(element("span", { className: "moved", title }, `${moved > 0 ? "+" : "−"}${Math.abs(moved)} retrieval`));
  }
  return row;
}

function drawRow(item, { moved, mark, isFresh }) {
  const row = element("li", { className: isFresh ? "fresh" : "" });
  row.dataset.item = item.item_id;
  const title = button(item.title, () => actions.open(item.item_id, item), { className: "title" });
  const about = element("div", { className: "about" }, title, ...(mark ? [element("span", { className: "mark" }, mark)] : []), scoreRow(item, moved));
  const phrases = item.matches ?? [];
  if (phrases.length) about.append(element("div", { className: "matches" }, "matches", ...phrases.map((one) => element("b", {}, one))));
  const like = button("♥", () => actions.like(item), { className: "like", ariaLabel: `Like ${item.title}` });
  like.append(element("span", {}, " Like"));
  const dislike = button("✕", () => actions.dislike(item), { className: "dislike", ariaLabel: `Hide ${item.title}`, title: "Not for me: hide this item" });
  const problem = element("div", { className: "problem", role: "alert", hidden: true });
  row.append(element("span", { className: "rank" }, String(item.rank)), cover(item.item_id), about, element("div", { className: "buttons" }, like, dislike), problem);
  for (const [on, shown] of [["pointerenter", phrases], ["focusin", phrases], ["pointerleave", []], ["focusout", []]]) {
    row.addEventListener(on, () => { if (isLatest()) drawPreference(shown); });
  }
  return row;
}

// Draw a list. Differences to `other` are marked, if given: an earlier list of the same model, or
// the list beside it.
function drawList(target, list, other, missing) {
  const focused = $(target).contains(document.activeElement) ? document.activeElement : null;
  const at = focused ? [...$(target).children].indexOf(focused.closest("li")) : -1;
  const ranks = new Map((other ?? []).map((item) => [item.item_id, item.rank]));
  const moved = movedByRetrieval(list);
  $(target).replaceChildren(...list.map((item) => {
    const was = ranks.get(item.item_id);
    const isMissing = Boolean(other) && was === undefined;
    const mark = !other || was === item.rank ? "" : isMissing ? missing : was > item.rank ? `↑ ${was - item.rank}` : `↓ ${item.rank - was}`;
    return drawRow(item, { moved: moved.get(item.item_id), mark, isFresh: isMissing && missing === NEW });
  }));
  // Keep the focus of keyboard users at the same rank.
  if (at >= 0) $(target).children[Math.min(at, list.length - 1)]?.querySelector(`.${focused.className}`)?.focus({ preventScroll: true });
}

export function drawLoadingList() {
  $("list").replaceChildren(...skeleton(state.n));
  $("other").hidden = $("own-name").hidden = $("reason").hidden = $("more").hidden = true;
  $("note").textContent = $("difference").textContent = "";
  document.body.classList.remove("two");
  drawHidden();
}

async function fetchList(model) {
  const ranked = model === RETRIEVAL ? { model: "run", budget: 0 } : { model };
  const body = { user_id: state.user.id, k: state.n, ...ranked };
  const found = await fetchJson("/v1/recommendations", { method: "POST", body });
  await loadItems(found.items.map((item) => item.item_id));
  return found;
}

// Fetch and show the lists; `marked` highlights changes. Return the number of new items, or null
// if the user has done something else in the meantime.
export async function refreshLists({ marked = false } = {}) {
  const started = state.turn;
  const [model, compared] = [$("model").value, $("compare").value];
  $("lists").setAttribute("aria-busy", "true");
  try {
    const [own, other] = await Promise.all([fetchList(model), compared ? fetchList(compared) : null]);
    if (started !== state.turn) return null;
    drawLists(own, other, marked);
    const known = new Set(state.shown.own.map((item) => item.item_id));
    state.shown = { own: own.items, other: other?.items ?? [], reason: own.fallback_reason };
    document.dispatchEvent(new Event("drawn"));
    return own.items.filter((item) => !known.has(item.item_id)).length;
  } finally {
    if (started === state.turn) $("lists").removeAttribute("aria-busy");
  }
}

const isTemporary = (reason) => TEMPORARY.includes(reason);

// Say why a model has not ranked its list, and which one if that is true of one of two lists.
function drawReason(own, other) {
  const text = ({ fallback_reason: reason }) => REASONS[reason] ?? reason ?? "";
  const isShared = !other || text(own) === text(other);
  const texts = isShared ? [text(own)] : [[own, "model"], [other, "compare"]].map(([list, menu]) => text(list) && `${nameOf($(menu).value)}: ${text(list)}`);
  $("reason").replaceChildren(texts.filter(Boolean).join(" "));
  $("reason").hidden = !$("reason").textContent;
  if ([own, other].some((list) => isTemporary(list?.fallback_reason))) $("reason").append(button("Try again", () => actions.showLists()));
}

function drawLists(own, other, marked) {
  const earlier = state.shown;
  drawReason(own, other);
  // Two lists of which the model has ranked only one differ for another reason than a change.
  const isChange = marked && isTemporary(own.fallback_reason) === isTemporary(earlier.reason);
  const scored = [...own.items, ...(other?.items ?? [])].some((item) => item.score !== null);
  const isUnasked = [[own, "model"], [other, "compare"]].some(([list, menu]) => list?.items[0]?.reason === "beyond_budget" && $(menu).value !== RETRIEVAL);
  $("note").textContent = scored ? "Match: how strongly the model answers yes. Not the chance that the item comes next."
    : isUnasked ? "This service is set to make lists without model calls (retrieve.budget or fit-lists)." : "";
  drawList("list", own.items, isChange ? earlier.own : null, NEW);
  if (other) drawList("other-list", other.items, own.items, "only here");
  $("columns").style.setProperty("--rows", Math.max(own.items.length, other?.items.length ?? 0));
  $("other").hidden = $("own-name").hidden = !other;
  document.body.classList.toggle("two", Boolean(other));
  $("own-name").textContent = nameOf($("model").value);
  $("other-name").textContent = nameOf($("compare").value);
  $("difference").textContent = other ? describeDifference(own.items, other.items) : "";
  $("more").hidden = own.items.length < state.n || state.n >= 40;
  drawHidden();
}

export function describeDifference(own, other) {
  const ranks = new Map(own.map((item) => [item.item_id, item.rank]));
  const common = other.filter((item) => ranks.has(item.item_id));
  const same = common.filter((item) => ranks.get(item.item_id) === item.rank);
  if (same.length === own.length && same.length === other.length) return "Both lists have the same items in the same order.";
  if (common.length === own.length && common.length === other.length) return `Both lists have the same items; ${same.length} of ${own.length} have the same rank.`;
  return `${common.length} of ${own.length} items are in both lists; ${same.length} of them have the same rank.`;
}

// The items that the user has hidden, each with a button that shows it again.
function drawHidden() {
  const { dislikes } = state.user;
  $("hidden").hidden = !dislikes.length;
  $("hidden-count").textContent = `${dislikes.length} hidden item${dislikes.length === 1 ? "" : "s"}`;
  $("hidden-list").replaceChildren(...dislikes.map((id) => {
    const title = titleOf(id);
    return element("li", {}, title, " ", button("Show again", () => actions.showAgain(id), { ariaLabel: `Show ${title} again` }));
  }));
}
