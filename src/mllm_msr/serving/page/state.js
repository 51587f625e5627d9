// What the page knows: the run, its models, and the user who is shown.

export const state = {
  run: null, // the response of /v1/run
  models: [], // the models of /v1/models
  user: null, // {id, history, preference_history, events, dislikes, updating, next_update, failure}
  liked: new Set(), // items liked since the user was selected
  pending: null, // an item whose like has been sent, but not acknowledged
  before: null, // the latest preference before the last like
  shown: { own: [], other: [], reason: null }, // the lists on the page, and why the model has not ranked them
  n: 8, // items per list
  turn: 0, // incremented by each selection and change; responses of earlier turns are ignored
};

export const emptyUser = (id) => ({
  id, history: [], preference_history: [], events: [], dislikes: [], n_items: 0, updating: false, next_update: 1, failure: null,
});

// The history with an item whose like is not acknowledged yet.
export const historyShown = () => (state.pending ? [...state.user.history, state.pending] : state.user.history);

export const step = () => Number(document.getElementById("step").value);

export const isLatest = () => step() >= state.user.preference_history.length - 1;

export const writesPreferences = () => state.run?.preferences !== false;

// What stands in place of a preference: it is not written yet, or the model reads the history.
export const noPreference = () => (writesPreferences()
  ? "There is no preference yet."
  : `The model reads the titles of the latest ${state.run.history_items} items of the history.`);

export const latestPreference = () => state.user.preference_history.at(-1)?.preference ?? null;
