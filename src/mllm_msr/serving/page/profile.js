// The history of the user, the preference with its history, and the progress to the next update.

import { $, button, cover, element, skeleton, titleOf } from "/page/elements.js";
import { historyShown, isLatest, latestPreference, noPreference, state, step, writesPreferences } from "/page/state.js";
import { newWords, phraseWords, words } from "/page/words.js";

let openItem = () => {}; // shows an item in a dialog

export const onOpen = (action) => { openItem = action; };

export function drawLoading() {
  $("history").replaceChildren(...skeleton(5));
  $("preference").replaceChildren(element("span", { className: "skeleton", ariaHidden: "true" }));
  $("read").textContent = "";
  $("preference-history").hidden = $("next").hidden = true;
  $("now").textContent = "";
}

function drawHistory() {
  const { user, liked, pending } = state;
  const read = user.preference_history[step()]?.n_items ?? 0;
  const readBefore = user.preference_history[step() - 1]?.n_items ?? 0;
  const history = historyShown();
  $("history").replaceChildren(...history.map((id, at) => {
    const isNew = liked.has(id) || (id === pending && at === history.length - 1);
    const states = [writesPreferences() && at >= read && "unread", at >= readBefore && at < read && "block", isNew && "added"];
    const title = element("span", { className: "title" }, titleOf(id));
    const tile = button("", () => openItem(id, null, at), { title: titleOf(id) });
    tile.append(cover(id), title);
    return element("li", { className: states.filter(Boolean).join(" ") }, tile);
  }));
  const n = history.length;
  $("read").textContent = n ? n === 1 ? "1 item" : `${n} items, latest last` : "empty";
}

// Scroll the history, and nothing else, to an item.
function scrollTo(tile) {
  const strip = $("history");
  if (tile) strip.scrollTo({ left: tile.offsetLeft + tile.offsetWidth + 8 - strip.clientWidth, behavior: "smooth" });
}

export function scrollToRead() {
  scrollTo([...$("history").querySelectorAll(".block")].at(-1) ?? $("history").lastElementChild);
}

// Show the latest item, and draw attention to it.
export function showLatestItem() {
  const tile = $("history").lastElementChild;
  scrollTo(tile);
  tile?.classList.add("pulse");
}

export function drawPreference(phrases = []) {
  const { user, before } = state;
  const text = words(user.preference_history[step()]?.preference ?? "");
  const earlier = (isLatest() ? before : null) ?? user.preference_history[step() - 1]?.preference;
  const fresh = earlier ? newWords(words(earlier), text) : new Set();
  const hits = phraseWords(text, phrases);
  const spans = text.map((word, index) => {
    const isNew = fresh.has(index) && word.trim() !== "";
    if (hits.has(index)) return element("mark", { className: isNew ? "hit new" : "hit" }, word);
    return isNew ? element("ins", { className: "new" }, word) : word;
  });
  $("generated").hidden = !spans.length;
  $("preference").replaceChildren(...(spans.length ? spans : [element("span", { className: "quiet" }, noPreference())]));
}

function drawSteps() {
  const { user } = state;
  const n = user.preference_history.length;
  $("preference-history").hidden = n === 0;
  $("earlier").disabled = step() === 0;
  $("later").disabled = step() >= n - 1;
  const failed = user.preference_history[step()]?.flags.includes("failed");
  const text = n ? `after ${user.preference_history[step()].n_items} of ${user.history.length} item${user.history.length === 1 ? "" : "s"}${failed ? "; the last block failed" : ""}` : "";
  $("progress").textContent = text;
  $("step").setAttribute("aria-valuetext", text);
  $("past").hidden = n === 0 || isLatest();
  $("past").textContent = `The lists use the latest preference, not the one shown here (${text}).`;
}

// Say what the next like changes, and offer an update now if the preference lacks items.
export function drawNext() {
  const { user } = state;
  const unread = user.history.length - (user.preference_history.at(-1)?.n_items ?? 0);
  let text = "";
  if (user.failure) {
    text = `The model has not returned a usable preference yet and is retried (failed attempts: ${user.failure.tries}).`;
  } else if (user.updating) text = "Updating the preference …";
  else if (!user.history.length) text = "Like an item to start.";
  else if (!state.run?.preferences) text = "Each like changes the lists at once.";
  else if (unread > 0) {
    text = user.next_update
      ? `${unread} of ${unread + user.next_update} new items until the preference is updated.`
      : `The preference does not include the latest ${unread === 1 ? "item" : `${unread} items`} yet.`;
  }
  $("next").hidden = !text;
  $("next-text").textContent = text;
  $("update-now").hidden = user.updating || unread <= 0 || !state.run?.preferences;
  const bar = $("next-bar");
  bar.hidden = user.updating || unread <= 0 || !user.next_update || !state.run?.preferences;
  bar.max = unread + user.next_update;
  bar.value = unread;
}

export function drawUser() {
  drawHistory();
  drawPreference();
  drawSteps();
  drawNext();
  $("now").textContent = latestPreference() ?? noPreference();
  document.dispatchEvent(new Event("drawn"));
}

export function goTo(at) {
  $("step").max = String(Math.max(state.user.preference_history.length - 1, 0));
  $("step").value = String(at);
  drawUser();
}

// Draw attention to a preference that has changed.
export function flash() {
  for (const one of [$("preference"), $("now")]) {
    one.classList.remove("flash");
    void one.offsetWidth; // restarts the animation
    one.classList.add("flash");
  }
}
